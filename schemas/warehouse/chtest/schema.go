//go:build unix

package chtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"carom/schemas/warehouse"
)

// StartWithSchema is Start with a database carom that has the schema. It returns the address of the
// database as well, which is what carom's --url takes.
//
// The schema is applied once and kept in the user's cache folder under a name made of its text and
// of the engine; each test gets a copy, which takes a tenth of the time.
func StartWithSchema(tb testing.TB, args ...string) (s *Server, url string) {
	tb.Helper()
	library := needLibrary(tb)
	folder := tb.TempDir()
	template, err := schemaTemplate(library)
	if err != nil {
		tb.Fatalf("make a data folder with the schema: %v", err)
	}
	if err := os.CopyFS(filepath.Join(folder, dataFolder), os.DirFS(template)); err != nil {
		tb.Fatalf("copy the data folder with the schema: %v", err)
	}
	s = start(tb, &Server{library: library, folder: folder, args: args, log: new(logBuffer), addr: anyPort})
	return s, s.URL() + "/carom"
}

// templateOnce keeps the tests of one process from making the same template side by side. Two
// processes may: the second one's rename fails, and it takes the first one's.
var templateOnce sync.Mutex

// schemaTemplate returns the data folder of an engine that has the schema and nothing else.
func schemaTemplate(library string) (string, error) {
	templateOnce.Lock()
	defer templateOnce.Unlock()
	var text bytes.Buffer
	if err := (warehouse.Layout{}).Print(&text, "carom"); err != nil {
		return "", err
	}
	info, err := os.Stat(library)
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprintln(&text, info.Size(), info.ModTime())
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "carom-chtest")
	template := filepath.Join(cache, fmt.Sprintf("%x", sha256.Sum256(text.Bytes()))[:16])
	if _, err := os.Stat(template); err == nil {
		return template, nil
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, "making-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	s := &Server{library: library, folder: work, log: new(logBuffer), addr: anyPort}
	if err := s.run(); err != nil {
		return "", fmt.Errorf("start the engine: %w\n%s", err, s.log)
	}
	defer s.Kill()
	if _, err := warehouse.Apply(context.Background(), s.URL()+"/carom", warehouse.Options{}, "test"); err != nil {
		return "", err
	}
	if err := s.Stop(); err != nil {
		return "", fmt.Errorf("stop the engine: %w\n%s", err, s.log)
	}
	if err := os.Rename(filepath.Join(work, dataFolder), template); err != nil {
		if _, statErr := os.Stat(template); statErr != nil {
			return "", err
		}
	}
	return template, nil
}
