package suppression_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/suppression"
)

func changeOf(n int, tenant string, suppressed bool) suppression.Change {
	return suppression.Change{Tenant: tenant, Key: fmt.Sprintf("%032x", n), Suppressed: suppressed, At: time.Unix(int64(n), 0).UTC()}
}

// delta is a file with a reader.
type delta struct {
	name string
	tail suppression.Tail
}

func (d *delta) add(t *testing.T, changes ...suppression.Change) {
	t.Helper()
	if err := suppression.AppendDelta(d.name, changes); err != nil {
		t.Fatal(err)
	}
}

func (d *delta) start(t *testing.T, base uint64) {
	t.Helper()
	if err := suppression.StartDelta(d.name, base); err != nil {
		t.Fatal(err)
	}
}

func (d *delta) want(t *testing.T, base uint64, want ...suppression.Change) {
	t.Helper()
	got, err := d.tail.Read(d.name, base)
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestDelta(t *testing.T) {
	d := &delta{name: filepath.Join(t.TempDir(), suppression.DeltaName)}
	d.want(t, 7)
	d.start(t, 7)
	d.want(t, 7)
	one, two, three := changeOf(1, "", true), changeOf(2, "shop", true), changeOf(3, "", false)
	d.add(t, one, two)
	d.want(t, 7, one, two)
	d.want(t, 7)
	d.add(t, three)
	d.want(t, 7, three)

	// The delta of another snapshot says nothing of this one.
	d.start(t, 9)
	d.add(t, one)
	d.want(t, 7)
	d.want(t, 9, one)

	// One who begins later reads all.
	d.add(t, two)
	d.tail = suppression.Tail{}
	d.want(t, 9, one, two)
}

// A frame that is being written is read when it is whole.
func TestDeltaThatGrows(t *testing.T) {
	d := &delta{name: filepath.Join(t.TempDir(), suppression.DeltaName)}
	d.start(t, 1)
	d.add(t, changeOf(1, "", true))
	whole, err := os.ReadFile(d.name)
	if err != nil {
		t.Fatal(err)
	}
	d.start(t, 1)
	empty, err := os.Stat(d.name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(d.name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := int(empty.Size()); i < len(whole); i++ {
		d.want(t, 1)
		if _, err := file.Write(whole[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	d.want(t, 1, changeOf(1, "", true))
}

func TestDeltaWithManyChanges(t *testing.T) {
	d := &delta{name: filepath.Join(t.TempDir(), suppression.DeltaName)}
	d.start(t, 1)
	changes := make([]suppression.Change, 400_000) // more than one frame holds
	for i := range changes {
		changes[i] = changeOf(i, "", i%3 > 0)
	}
	d.add(t, changes...)
	if got, err := d.tail.Read(d.name, 1); err != nil || !slices.Equal(got, changes) {
		t.Errorf("%d changes, %v; want the %d that were written", len(got), err, len(changes))
	}
}

// What stands before the damage is read, what follows is not, and a new file is read again.
func TestDeltaThatIsDamaged(t *testing.T) {
	d := &delta{name: filepath.Join(t.TempDir(), suppression.DeltaName)}
	d.start(t, 1)
	d.add(t, changeOf(1, "", true))
	before, err := os.Stat(d.name)
	if err != nil {
		t.Fatal(err)
	}
	d.add(t, changeOf(2, "", true))
	d.add(t, changeOf(3, "", true))
	data, err := os.ReadFile(d.name)
	if err != nil {
		t.Fatal(err)
	}
	data[before.Size()+20] ^= 1
	if err := os.WriteFile(d.name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := d.tail.Read(d.name, 1)
	if !errors.Is(err, suppression.ErrMalformed) || len(got) != 1 {
		t.Errorf("Read gives %v, %v; want the first change and ErrMalformed", got, err)
	}
	if got, err = d.tail.Read(d.name, 1); !errors.Is(err, suppression.ErrMalformed) || len(got) != 0 {
		t.Errorf("once more Read gives %v, %v; want ErrMalformed alone", got, err)
	}
	d.start(t, 2)
	d.add(t, changeOf(4, "", true))
	d.want(t, 2, changeOf(4, "", true))

	if err := os.WriteFile(d.name, []byte("no delta, and long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.tail = suppression.Tail{}
	if _, err := d.tail.Read(d.name, 2); !errors.Is(err, suppression.ErrMalformed) {
		t.Errorf("Read of another file gives %v", err)
	}
	if err := suppression.AppendDelta(d.name, []suppression.Change{{Key: "no key"}}); err == nil {
		t.Error("a change without a key was written")
	}
}
