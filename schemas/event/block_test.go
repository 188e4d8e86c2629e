package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

var (
	someNode        = "n1"
	someIncarnation = uuid.MustParse("01936f3e-7c00-7abc-8def-0123456789ae")
)

// sameBlocks fails the test if two blocks differ in a column.
func sameBlocks(t interface {
	Helper()
	Errorf(format string, args ...any)
}, got, want *Block[Event],
) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Errorf("%d rows, want %d", got.Len(), want.Len())
	}
	for i, c := range Columns {
		if a, b := slices.Clone(got.Native(i)), want.Native(i); !bytes.Equal(a, b) {
			t.Errorf("column %s is %x, want %x", c.Name, a, b)
		}
	}
}

// A record goes into a block as the event does that it is decoded to.
func TestBlockOfRecordsEqualsBlockOfEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records, events := NewBlock(Columns), NewBlock(Columns)
		for seq := range rapid.Uint64Range(0, 20).Draw(t, "rows") {
			e := drawn(t)
			if err := records.AppendRecord(someNode, someIncarnation, seq, Encode(nil, &e)); err != nil {
				t.Fatal(err)
			}
			e.Node, e.Incarnation, e.Seq = someNode, someIncarnation, seq
			if err := events.Append(&e); err != nil {
				t.Fatal(err)
			}
		}
		sameBlocks(t, records, events)
	})
}

// drawn is some event, without its place.
func drawn(t *rapid.T) Event {
	e := full()
	if rapid.Bool().Draw(t, "sparse") {
		e = Event{FormatVersion: FormatVersion, Kind: Received}
	}
	e.Tenant = rapid.StringN(0, 2, 4).Draw(t, "tenant")
	e.DKIMDomains = rapid.SliceOfN(rapid.StringN(0, 2, 4), 0, 3).Draw(t, "domains")
	e.Headers = rapid.MapOfN(rapid.StringN(0, 2, 4), rapid.String(), 0, 3).Draw(t, "headers")
	e.Reply = rapid.String().Draw(t, "reply")
	e.LimitEpoch = rapid.Uint64().Draw(t, "epoch")
	e.Time = time.UnixMicro(rapid.Int64Range(firstTime, lastTime).Draw(t, "time")).UTC()
	return e
}

// Some rows of a block are a block that only those went into; the block they are of stays as it is.
func TestBlockSelect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, same, want := NewBlock(Columns), NewBlock(Columns), NewBlock(Columns)
		keep := rapid.SliceOfN(rapid.Bool(), 0, 12).Draw(t, "keep")
		for i := range keep {
			e := drawn(t)
			for _, b := range []*Block[Event]{all, same, want} {
				if b == want && !keep[i] {
					continue
				}
				if err := b.Append(&e); err != nil {
					t.Fatal(err)
				}
			}
		}
		sameBlocks(t, all.Select(func(row int) bool { return keep[row] }), want)
		sameBlocks(t, all, same)
	})
}

// A dictionary outgrows keys of one byte and of two.
func TestBlockKeysGrow(t *testing.T) {
	b := NewBlock(AnnotationColumns)
	for _, words := range []int{255, 256, 65_535, 65_536} {
		b.Reset()
		for i := range words {
			if err := b.Append(&Annotation{Name: strconv.Itoa(i)}); err != nil {
				t.Fatal(err)
			}
		}
		// 8 bytes of flags, 8 of the dictionary's length, at least a byte more than words in it, 8 of the number of keys.
		width := 1
		if words > math.MaxUint8-1 {
			width = 2
		}
		if words > math.MaxUint16-1 {
			width = 4
		}
		native := b.Native(5)
		if got := len(native) - 24 - len(b.columns[5].data); got != words*width {
			t.Errorf("%d words: keys take %d bytes, want %d each", words, got, width)
		}
	}
}

// What does not fit leaves no trace, in whichever column it is.
func TestBlockRefuses(t *testing.T) {
	e := full() // from the same node, so that the dictionary of nodes stays as it is
	e.Node, e.Incarnation, e.Seq = someNode, someIncarnation, 1
	want, got := NewBlock(Columns), NewBlock(Columns)
	for _, b := range []*Block[Event]{want, got} {
		if err := b.Append(&e); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*Event)
	}{
		{"no kind", func(e *Event) { e.Kind = 0 }},
		{"a kind of a later version", func(e *Event) { e.Kind = 99 }},
		{"a class that there is not", func(e *Event) { e.Class = "harder" }},
		{"before ClickHouse's first year", func(e *Event) { e.Time = time.Date(1899, 12, 31, 0, 0, 0, 0, time.UTC) }},
		{"after its last", func(e *Event) { e.Time = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := e
			tc.change(&e)
			if err := got.Append(&e); !errors.Is(err, ErrUnfit) {
				t.Errorf("Append = %v, want ErrUnfit", err)
			}
			if err := got.AppendRecord(someNode, someIncarnation, 1, Encode(nil, &e)); !errors.Is(err, ErrMalformed) {
				t.Errorf("AppendRecord = %v, want ErrMalformed", err)
			}
			sameBlocks(t, got, want)
		})
	}
	record := Encode(nil, &e)
	for cut := range record {
		if err := got.AppendRecord(someNode, someIncarnation, 1, record[:cut]); err == nil { // the end of a column
			got.Reset()
			if err := got.Append(&e); err != nil {
				t.Fatal(err)
			}
		}
		sameBlocks(t, got, want)
	}
}

// FuzzBlock wants of AppendRecord what Decode and Append do.
func FuzzBlock(f *testing.F) {
	e := full()
	f.Add(Encode(nil, &e))
	f.Add([]byte{1})
	f.Add([]byte{1, 1, 1, 0, 1, 1})
	f.Add(append(append([]byte{1, 1, 1, 9}, binary.AppendVarint(nil, noTime)...), 1, 1)) // a time that is none, and a kind
	f.Fuzz(func(t *testing.T, record []byte) {
		got, want := NewBlock(Columns), NewBlock(Columns)
		var e Event
		err := Decode(record, &e)
		if err == nil {
			e.Node, e.Incarnation, e.Seq = someNode, someIncarnation, 7
			err = want.Append(&e)
		}
		if gotErr := got.AppendRecord(someNode, someIncarnation, 7, record); (gotErr == nil) != (err == nil) {
			t.Fatalf("AppendRecord = %v, Decode and Append = %v", gotErr, err)
		}
		sameBlocks(t, got, want)
	})
}

func BenchmarkBlockRecord(b *testing.B) {
	e := full()
	record := Encode(nil, &e)
	block := NewBlock(Columns)
	var seq uint64
	b.ReportAllocs()
	for b.Loop() {
		if seq++; seq%50_000 == 0 {
			block.Reset()
		}
		if err := block.AppendRecord(someNode, someIncarnation, seq, record); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBlockEvent(b *testing.B) {
	e := full()
	block := NewBlock(Columns)
	b.ReportAllocs()
	for b.Loop() {
		if e.Seq++; e.Seq%50_000 == 0 {
			block.Reset()
		}
		if err := block.Append(&e); err != nil {
			b.Fatal(err)
		}
	}
}

func TestBlockSetTimes(t *testing.T) {
	g := Gauge{Time: time.UnixMicro(5).UTC(), Provider: "google"}
	stamped, want := NewBlock(GaugeColumns), NewBlock(GaugeColumns)
	for range 3 {
		if err := stamped.Append(&g); err != nil {
			t.Fatal(err)
		}
	}
	stamped.SetTimes("events_to", time.UnixMicro(7))
	g.EventsTo = time.UnixMicro(7)
	for range 3 {
		if err := want.Append(&g); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range GaugeColumns {
		if a, b := slices.Clone(stamped.Native(i)), want.Native(i); !bytes.Equal(a, b) {
			t.Errorf("column %s is %x, want %x", c.Name, a, b)
		}
	}
}
