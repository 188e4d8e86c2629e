package ship

import (
	"errors"
	"fmt"
	"slices"

	"carom/schemas/event"
	"carom/schemas/warehouse"
)

// batch is a run of records from the log: numbers from to to, of which those in seqs are rows. The
// records are kept beside the block that is sent, for the rare case that only some of them are to
// be sent.
type batch[T any] struct {
	table warehouse.Table[T]
	node  string
	id    event.ID // incarnation of the log

	from, to uint64
	seqs     []uint64 // of the rows
	ends     []int    // of their records in records
	records  []byte
	block    *event.Block[T]
	bad      []Quarantined
}

func newBatch[T any](table warehouse.Table[T], node string, id event.ID) *batch[T] {
	return &batch[T]{table: table, node: node, id: id, block: table.NewBlock()}
}

// begin empties b for records from from on.
func (b *batch[T]) begin(from uint64) {
	b.from, b.to = from, from-1
	b.seqs, b.ends, b.records, b.bad = b.seqs[:0], b.ends[:0], b.records[:0], nil
	b.block.Reset()
}

// add adds the record seq, which it copies, or says why it can't be a row.
func (b *batch[T]) add(seq uint64, record []byte) error {
	if err := b.block.AppendRecord(b.node, b.id, seq, record); err != nil {
		return err
	}
	b.records = append(b.records, record...)
	b.seqs, b.ends = append(b.seqs, seq), append(b.ends, len(b.records))
	return nil
}

// record returns the record of row i.
func (b *batch[T]) record(i int) []byte {
	begin := 0
	if i > 0 {
		begin = b.ends[i-1]
	}
	return b.records[begin:b.ends[i]]
}

// between returns the part of b with the numbers from to to: b itself if that is all.
func (b *batch[T]) between(from, to uint64) *batch[T] {
	if from <= b.from && to >= b.to {
		return b
	}
	return b.only(from, to, func(seq uint64) bool { return seq >= from && seq <= to })
}

// without returns b without the records seqs, which are in order: b itself if it has none of them.
func (b *batch[T]) without(seqs []uint64) *batch[T] {
	missing := func(seq uint64) bool {
		_, found := slices.BinarySearch(seqs, seq)
		return !found
	}
	if len(seqs) == 0 {
		return b
	}
	return b.only(b.from, b.to, missing)
}

func (b *batch[T]) only(from, to uint64, wanted func(seq uint64) bool) *batch[T] {
	out := newBatch(b.table, b.node, b.id)
	out.begin(from)
	out.to = to
	for i, seq := range b.seqs {
		if wanted(seq) {
			_ = out.add(seq, b.record(i)) // which b could add
		}
	}
	return out
}

// refused adds to err, of an insert of b, which record it is about.
func (b *batch[T]) refused(err error) error {
	if e, ok := errors.AsType[*warehouse.RowError](err); ok {
		return &refusedError{seq: b.seqs[e.Index], err: err}
	}
	return err
}

// refusedError says which record of a batch does not fit the table.
type refusedError struct {
	seq uint64
	err error // wraps a *warehouse.RowError
}

func (e *refusedError) Error() string { return fmt.Sprintf("record %d: %v", e.seq, e.err) }

func (e *refusedError) Unwrap() error { return e.err }
