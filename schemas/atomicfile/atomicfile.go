// Package atomicfile replaces files as a whole: whoever reads one at any moment, or after a crash,
// finds the old content or the new content.
//
// It writes beside the file, syncs, renames and syncs the folder. Two writers of one file do not
// disturb each other; the last one to rename wins. A crash may leave a file named NAME.*.tmp.
package atomicfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// fileMode lets the other processes of the node read the file.
const fileMode = 0o644

// Write replaces the file name with what write gives its argument. After it returned nil the
// content is on disk; after an error the file is as it was.
func Write(name string, write func(io.Writer) error) error {
	if err := replace(name, write); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func replace(name string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Chmod(fileMode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	folder, err := os.Open(dir) //nolint:gosec // the folder of the file above
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	return folder.Sync()
}
