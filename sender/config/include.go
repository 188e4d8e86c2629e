package config

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of includes. Each is far above what a real installation has and keeps a file that
// includes itself in a roundabout way, or by many wildcards, from filling memory.
const (
	maxIncludeDepth = 16
	maxFiles        = 10_000
	maxTotalBytes   = 64 << 20
)

// files is how a configuration reaches the outside. Tests put one in memory in its place.
type files interface {
	ReadFile(name string) ([]byte, error)
	Glob(pattern string) ([]string, error)
}

type osFiles struct{}

func (osFiles) ReadFile(name string) ([]byte, error)  { return os.ReadFile(name) }
func (osFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

// loader reads a file and all it includes into one tree.
type loader struct {
	*report
	files   files
	reading []string // the files whose include led here, outermost first
	count   int
	bytes   int
	digest  hash.Hash

	signers map[string]crypto.Signer // by file: many directives share one key
}

func newLoader(f files) *loader {
	return &loader{report: newReport(), files: f, digest: sha256.New(), signers: map[string]crypto.Signer{}}
}

func (l *loader) hash() uint64 { return binary.BigEndian.Uint64(l.digest.Sum(nil)) }

// parse returns the nodes of the named file, whose content is data.
func (l *loader) parse(name string, data []byte) []*node {
	if _, ok := l.order[name]; !ok {
		l.order[name] = len(l.order)
	}
	l.count++
	l.bytes += len(data)
	// Lengths keep two files apart from one that holds both texts. Names stay out: the same
	// configuration in another folder is the same configuration. Write of a hash never fails.
	_, _ = fmt.Fprintf(l.digest, "%d\n%s", len(data), data)
	l.reading = append(l.reading, filepath.Clean(name))
	defer func() { l.reading = l.reading[:len(l.reading)-1] }()
	t := treeReader{report: l.report, file: name, include: l.include}
	return t.read(data)
}

func (l *loader) include(n *node) []*node {
	v := newValue(n, l)
	target, err := v.single("want a file name, which may hold wildcards")
	if err != nil {
		l.add(n.Name, v.pos, err)
		return nil
	}
	if i := strings.Index(target, "://"); i >= 0 {
		l.errorf(v.pos, "include: %s addresses are not read: fetch the file to disk and include it from there", target[:i])
		return nil
	}
	if target == "" {
		l.errorf(v.pos, "include: empty file name")
		return nil
	}
	target = v.absolute(target)
	names := []string{target}
	if strings.ContainsAny(target, "*?[") {
		if names, err = l.files.Glob(target); err != nil {
			l.errorf(v.pos, "include: bad wildcard pattern %q", target)
			return nil
		}
		if len(names) == 0 {
			l.warnings = append(l.warnings, Warning{v.pos, fmt.Sprintf("include: no file matches %s", target)})
		}
	}
	var nodes []*node
	for _, name := range names {
		nodes = append(nodes, l.includeFile(name, v.pos)...)
	}
	return nodes
}

func (l *loader) includeFile(name string, pos Pos) []*node {
	if slices.Contains(l.reading, filepath.Clean(name)) {
		l.errorf(pos, "include: loop: %s", strings.Join(append(slices.Clone(l.reading), name), " includes "))
		return nil
	}
	switch {
	case len(l.reading) > maxIncludeDepth:
		l.errorf(pos, "include: more than %d files deep", maxIncludeDepth)
		return nil
	case l.count == maxFiles:
		l.count++
		l.errorf(pos, "include: more than %d files", maxFiles)
		return nil
	case l.count > maxFiles:
		return nil
	}
	data, err := l.files.ReadFile(name)
	if err != nil {
		l.errorf(pos, "include: %s: %s", name, fileProblem(err))
		return nil
	}
	if l.bytes+len(data) > maxTotalBytes {
		l.errorf(pos, "include: the files together hold more than %d MB", maxTotalBytes>>20)
		return nil
	}
	return l.parse(name, data)
}

// fileProblem says in one phrase why a file could not be read.
func fileProblem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	return err.Error()
}
