package seglog

import (
	"errors"
	"fmt"
)

var (
	// ErrLocked is returned by Open if another process writes the log.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed is returned by calls on a closed Log or Reader.
	ErrClosed = errors.New("log is closed")
	// ErrPoisoned is returned by every write after an fsync failed or a failed write couldn't be
	// undone. Whether the records of the failed call are on disk is unknown.
	ErrPoisoned = errors.New("log can no longer be trusted after a disk error; restart to recover it")
	// ErrTooLarge is returned for a record over Options.MaxRecordBytes.
	ErrTooLarge = errors.New("record is too large")
	// ErrReplaced is returned by a Reader whose log was replaced by a new one.
	ErrReplaced = errors.New("log was replaced by one with another incarnation")
	// ErrVersion is returned for a segment that a later version of this package wrote.
	ErrVersion = errors.New("segment has an unknown format version")
	// ErrActive is returned by RemoveSegment for the segment that is being written.
	ErrActive = errors.New("segment is being written")
)

// CorruptError reports damaged bytes in a log: records that were durable once and can't be read.
type CorruptError struct {
	File   string // path of the segment
	Offset int64  // first bad byte
	End    int64  // where reading goes on
	First  uint64 // first lost record; 0 if not known
	Last   uint64 // last lost record; less than First if none is lost or the number is not known
	Reason string

	toEnd bool // Last is not known: nothing valid follows in the segment
}

func (e *CorruptError) Error() string {
	where := fmt.Sprintf("%s: offset %d to %d: %s", e.File, e.Offset, e.End, e.Reason)
	switch {
	case e.First == 0:
		return where
	case e.toEnd:
		return fmt.Sprintf("%s; records from %d on are lost", where, e.First)
	case e.Last < e.First:
		return where + "; no record is lost"
	default:
		return fmt.Sprintf("%s; records %d to %d are lost", where, e.First, e.Last)
	}
}

// RemovedError says that the record a Reader asked for was removed from the log.
type RemovedError struct {
	From  uint64 // the record asked for
	First uint64 // the first record that the log still has
}

func (e *RemovedError) Error() string {
	return fmt.Sprintf("record %d was removed, the log begins at %d", e.From, e.First)
}

// AheadError says that a Reader asked for a record behind the end of the log, which happens when
// the log is older than the reader's cursor (restored from a copy).
type AheadError struct {
	From uint64 // the record asked for
	Last uint64 // the last record of the log
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("record %d is behind the end of the log, its last record is %d", e.From, e.Last)
}
