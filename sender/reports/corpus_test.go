package reports

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"carom/schemas/event"
)

// TestStrangersReports reads every mail of the public corpora as if it had come to a node: nothing in
// them has a token of it, so nobody is suppressed and nothing is proven, whatever they say.
func TestStrangersReports(t *testing.T) {
	const corpora = "../../../shared/corpora/files"
	if _, err := os.Stat(corpora); err != nil {
		t.Skip("../shared/corpora is not there")
	}
	p := New(keys(t, ours), key, func(context.Context, string) ([]string, error) { return nil, errors.New("no such name") })
	kinds := map[string]int{}
	err := filepath.WalkDir(corpora, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := p.Process(t.Context(), Mail{ID: reportID, Arrived: now, Recipients: []string{sender}, Content: content})
		if err != nil && !errors.Is(err, ErrNotAReport) && !errors.Is(err, ErrUnreadable) {
			return err
		}
		kinds[f.Kind]++ // "" for no report
		if len(f.Suppress) > 0 {
			t.Errorf("%s suppresses %q", path, f.Suppress)
		}
		for _, e := range f.Events {
			if e.MatchConfidence > 0 || e.Source != "" || e.OriginalMessageID != (event.ID{}) {
				t.Errorf("%s: matches by %s %v", path, e.MatchMethod, e.MatchConfidence)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(kinds) < 4 {
		t.Errorf("only these kinds were read: %v", kinds)
	}
	t.Logf("%v", kinds)
}
