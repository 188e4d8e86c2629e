package cursor

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"testing"
)

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, "event"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load of nothing: %v, want fs.ErrNotExist", err)
	}
	for _, want := range []Cursor{{"00ff", 0}, {"00ff", 41}, {"ab", math.MaxUint64}} {
		if err := Save(dir, "event", want); err != nil {
			t.Fatal(err)
		}
		got, err := Load(dir, "event")
		if err != nil || got != want {
			t.Errorf("Load = %v, %v, want %v", got, err, want)
		}
	}
	if _, err := Load(dir, "gauge"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another stream: %v, want fs.ErrNotExist", err)
	}
}

// Any one changed byte is noticed: the sender must not remove what was not shipped.
func TestLoadRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	good := format(Cursor{"0123456789abcdef", 1234})
	for i := range good {
		bad := []byte(good)
		bad[i] ^= 1
		if err := os.WriteFile(File(dir, "event"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Load(dir, "event"); !errors.Is(err, ErrMalformed) {
			t.Errorf("Load(%q) = %v, %v, want ErrMalformed", bad, c, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(format(Cursor{"00ff", 41}))
	f.Add("carom-cursor 1 ")
	f.Fuzz(func(t *testing.T, line string) {
		if c, ok := parse(line); ok && format(c) != line {
			t.Errorf("parse(%q) = %v, which is written %q", line, c, format(c))
		}
	})
}
