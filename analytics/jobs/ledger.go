package jobs

import (
	"fmt"
	"slices"
)

// seqRange is a run of sequence numbers, both ends included.
type seqRange struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

func (r seqRange) len() uint64 { return r.To - r.From + 1 }

// maxRanges bounds the runs of missing numbers of one stream: more are no log that lost something, but one
// that is stored in pieces.
const maxRanges = 100_000

// maxDuplicates bounds the runs of numbers stored twice that are kept by name; all are counted.
const maxDuplicates = 100

// streamLedger says which numbers of a stream have arrived: all from First to High but those in Missing.
// So each number that arrives is looked at once, and is known to be new or not without another look at
// the table. Its zero value has seen nothing.
type streamLedger struct {
	First, High uint64
	Rows        uint64
	Missing     []seqRange // in order, not touching
	Duplicates  uint64     // rows too many
	Twice       []seqRange // the first of them
}

// begin sets where the stream begins, before anything is added: what is missing before that has passed
// retention, or was never here.
func (l *streamLedger) begin(first uint64) {
	if l.First == 0 {
		l.First, l.High = first, first-1
	}
}

// add puts down that rows rows with each of the numbers of r have arrived.
func (l *streamLedger) add(r seqRange, rows uint64) error {
	l.Rows += rows
	fresh := uint64(0) // numbers of r that had not arrived
	if r.From < l.First {
		// Older numbers than the first that was seen come in: so they were not gone.
		if l.First > r.To+1 {
			l.Missing = slices.Insert(l.Missing, 0, seqRange{r.To + 1, l.First - 1})
		}
		end := min(r.To, l.First-1)
		fresh += end - r.From + 1
		l.First = r.From
	}
	if r.To > l.High {
		if r.From > l.High+1 {
			l.Missing = append(l.Missing, seqRange{l.High + 1, r.From - 1})
		}
		fresh += r.To - max(r.From, l.High+1) + 1
		l.High = r.To
	}
	fresh += l.fillIn(r)
	if more := rows - fresh; more > 0 {
		l.Duplicates += more
		if len(l.Twice) < maxDuplicates {
			l.Twice = append(l.Twice, r)
		}
	}
	if len(l.Missing) > maxRanges {
		return fmt.Errorf("more than %d gaps", maxRanges)
	}
	return nil
}

// fillIn takes the numbers of r out of those that are missing and returns how many they were.
func (l *streamLedger) fillIn(r seqRange) (filled uint64) {
	i, _ := slices.BinarySearchFunc(l.Missing, r.From, func(m seqRange, from uint64) int {
		if m.To < from {
			return -1
		}
		return 1
	})
	j := i
	var left []seqRange
	for ; j < len(l.Missing) && l.Missing[j].From <= r.To; j++ {
		m := l.Missing[j]
		if m.From < r.From {
			left = append(left, seqRange{m.From, r.From - 1})
		}
		if m.To > r.To {
			left = append(left, seqRange{r.To + 1, m.To})
		}
		filled += min(m.To, r.To) - max(m.From, r.From) + 1
	}
	if j > i {
		l.Missing = slices.Replace(l.Missing, i, j, left...)
	}
	return filled
}

// reach puts down that the numbers up to last are said to have arrived: those that have not are missing.
func (l *streamLedger) reach(last uint64) {
	if l.First > 0 && last > l.High {
		l.Missing = append(l.Missing, seqRange{l.High + 1, last})
		l.High = last
	}
}

// gaps returns how many numbers are missing.
func (l *streamLedger) gaps() (n uint64) {
	for _, m := range l.Missing {
		n += m.len()
	}
	return n
}
