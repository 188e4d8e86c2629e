package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"carom/schemas/atomicfile"
)

func TestWriteReplacesOrLeaves(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "limits.json")
	put := func(s string, fail error) error {
		return atomicfile.Write(name, func(w io.Writer) error {
			if _, err := io.WriteString(w, s); err != nil {
				return err
			}
			return fail
		})
	}
	if err := put("first", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("second", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := put("third", broken); !errors.Is(err, broken) {
		t.Fatalf("a writer that fails gives %v, want its error", err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "second" {
		t.Errorf("content is %q (%v), want the last one that was written whole", got, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("folder holds %v (%v), want one file", files, err)
	}
}

func TestWriteNamesTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "missing", "limits.json")
	err := atomicfile.Write(name, func(io.Writer) error { return nil })
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("Write into a folder that does not exist gives %v", err)
	}
}
