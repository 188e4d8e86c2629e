package config

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	// Resolve returns the path of a file or folder from the root on, without symbolic links.
	Resolve(name string) (string, error)
}

type osFiles struct{}

// ReadFile reads plain files only: a device has no end, and a pipe may have no writer.
func (osFiles) ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // else opening a pipe waits for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errFolder
	case !info.Mode().IsRegular():
		return nil, errNotPlain
	case info.Size() > maxTotalBytes:
		return nil, errTooLarge
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTotalBytes+1))
	if err == nil && len(data) > maxTotalBytes {
		err = errTooLarge
	}
	return data, err
}

var (
	errFolder   = errors.New("is a folder")
	errNotPlain = errors.New("is no plain file")
	errTooLarge = fmt.Errorf("holds more than %d MB", maxTotalBytes>>20)
)

func (osFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

func (osFiles) Resolve(name string) (string, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// loader reads a file and all it includes into one tree.
type loader struct {
	*report
	files   files
	reading []string // the files whose include led here, outermost first
	folders []string // resolved, from which files may be included; the main file's is the first
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
	if len(l.reading) == 0 {
		l.folders = []string{l.folderOf(name)}
	}
	l.reading = append(l.reading, filepath.Clean(name))
	defer func() { l.reading = l.reading[:len(l.reading)-1] }()
	t := treeReader{report: l.report, file: name, include: l.include, includeFrom: l.includeFrom}
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
		if !l.mayList(target) {
			l.errorf(v.pos, "include: %s is outside %s; %s", target, l.folders[0], howToInclude(fixedFolder(target)))
			return nil
		}
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
	path, err := l.files.Resolve(name)
	if err == nil && !l.mayRead(path) {
		leads := ""
		if filepath.Clean(name) != path {
			leads = "leads to " + path + " and "
		}
		l.errorf(pos, "include: %s %sis outside %s; %s", name, leads, l.folders[0], howToInclude(filepath.Dir(path)))
		return nil
	}
	var data []byte
	if err == nil {
		data, err = l.files.ReadFile(path)
	}
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

// folderOf returns the resolved folder of a file.
func (l *loader) folderOf(name string) string {
	folder := filepath.Dir(name)
	if path, err := l.files.Resolve(folder); err == nil {
		return path
	}
	return folder
}

// mayRead reports whether the file with the resolved path may be included.
func (l *loader) mayRead(path string) bool { return isInside(path, l.folders) }

// mayList reports whether the folders that a pattern with wildcards names may be looked into: its part
// in front of the first wildcard has to be in a folder from which files may be included.
func (l *loader) mayList(pattern string) bool {
	path, err := l.files.Resolve(fixedFolder(pattern))
	if err != nil {
		return true // there is nothing to look into
	}
	return isInside(path, l.folders)
}

// fixedFolder returns the folder of a pattern as far as it has no wildcards.
func fixedFolder(pattern string) string {
	folder := filepath.Dir(filepath.Clean(pattern))
	if i := strings.IndexAny(folder, "*?["); i >= 0 {
		folder = filepath.Dir(folder[:i] + "x")
	}
	return folder
}

// isInside reports whether the path is that of one of the folders or of something in them.
func isInside(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(folder, string(filepath.Separator)))
		return ok && (rest == "" || os.IsPathSeparator(rest[0]))
	})
}

func howToInclude(folder string) string {
	return "to allow it, write in front of it: include-from " + folder
}

// includeFrom allows includes from one more folder. Only the main file may do so: who can write into
// an included file must not get at others that the node can read.
func (l *loader) includeFrom(n *node) {
	v := newValue(n, l)
	if len(l.reading) > 1 {
		l.errorf(n.Pos, "include-from can stand in the main file only, %s", l.reading[0])
		return
	}
	folder, err := filePath(v)
	if err == nil {
		folder, err = l.files.Resolve(folder)
		if err != nil {
			err = fmt.Errorf("%s: %s", v.text, fileProblem(err))
		}
	}
	if err != nil {
		l.add(n.Name, v.pos, err)
		return
	}
	l.folders = append(l.folders, folder)
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
