package importer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"carom/ingest/importer/pmta"
	"carom/schemas/event"
	"carom/schemas/service"
)

const (
	// blockRecords is the number of records that are converted together. A block of events has some 30 MB
	// in memory, and four are at work at once.
	blockRecords = 25_000
	// batchBlocks is the number of blocks that are inserted together: an insert costs ClickHouse much before the
	// first row.
	batchBlocks = 4
	// blockBytes bounds the text of a block: records with long headers.
	blockBytes = 16 << 20
	readBytes  = 256 << 10
)

// block is a run of records of one file.
type block struct {
	text    string
	spans   []span
	broken  []Skipped // found while cutting
	records uint64    // number of the last record, from 1, of those before the block and in it
	line    int       // of the next record
	offset  int64     // of the text behind the block

	ready  chan struct{} // closed when the following are set
	events []event.Event
	bad    []Skipped
}

// span is a record in the text of a block.
type span struct {
	start, end int
	line       int
	layout     *pmta.Layout
}

// Skipped is a record that was not taken, and why.
type Skipped struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"` // one of the words of pmta.Reasons, or "cut"
	Detail string `json:"detail"`
	Text   string `json:"text"` // its beginning
}

// shownText bounds the text of a Skipped, in octets.
const shownText = 120

func skipped(file string, line int, err error, record string) Skipped {
	s := Skipped{File: file, Line: line, Reason: "other", Detail: err.Error()}
	for _, r := range pmta.Reasons {
		if errors.Is(err, r.Err) {
			s.Reason = r.Word
		}
	}
	record = strings.TrimRight(record, "\r\n")
	s.Text = strings.ToValidUTF8(record[:min(len(record), shownText)], "?")
	return s
}

// cutter cuts the text of a file into blocks. At the end of a text that still grows it can be asked
// again.
type cutter struct {
	name   string
	in     io.Reader
	layout *pmta.Layout // of the records that follow; nil before the header line
	buffer []byte       // text that is not cut yet

	last    bool  // what is there is all that comes
	offset  int64 // of the buffer in the text
	line    int   // of the buffer's first record
	records uint64
}

// next returns the next records, limit at most, or io.EOF if no record ends in what is there.
func (c *cutter) next(limit int) (*block, error) {
	b := &block{ready: make(chan struct{}), spans: make([]span, 0, limit)}
	at := 0
	if c.offset == 0 && len(c.buffer) == 0 {
		if err := c.fill(); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(c.buffer, utf8Mark) {
			at = len(utf8Mark)
		}
	}
	for len(b.spans)+len(b.broken) < limit && at < blockBytes {
		n, lines, broken := pmta.Cut(c.buffer[at:], false)
		if n == 0 {
			err := c.fill()
			if err == nil {
				continue
			}
			if !errors.Is(err, io.EOF) {
				return nil, err
			}
			if n, lines, broken = pmta.Cut(c.buffer[at:], c.last); n == 0 {
				break
			}
		}
		if err := c.add(b, at, at+n, broken); err != nil {
			return nil, err
		}
		at += n
		c.line += lines
	}
	if at == 0 {
		return nil, io.EOF
	}
	b.text = string(c.buffer[:at])
	c.buffer = c.buffer[:copy(c.buffer, c.buffer[at:])]
	c.offset += int64(at)
	c.records += uint64(len(b.spans) + len(b.broken))
	b.records, b.line, b.offset = c.records, c.line, c.offset
	return b, nil
}

// add takes the record buffer[start:end] into b, unless it is blank or a header line.
func (c *cutter) add(b *block, start, end int, broken error) error {
	record := c.buffer[start:end]
	if broken != nil {
		b.broken = append(b.broken, skipped(c.name, c.line+1, broken, string(record[:min(len(record), shownText)])))
		return nil
	}
	if len(bytes.TrimRight(record, "\r\n")) == 0 {
		return nil
	}
	if c.layout != nil && !beginsLikeHeader(record) {
		b.spans = append(b.spans, span{start, end, c.line + 1, c.layout})
		return nil
	}
	cells := pmta.Fields(nil, string(record))
	switch {
	case pmta.IsHeader(cells):
		layout, err := pmta.NewLayout(cells)
		if err != nil {
			return service.Configf("%s line %d: header: %w", c.name, c.line+1, err)
		}
		c.layout = layout
	case c.layout == nil:
		return service.Configf("%s line %d: this is no header line of an accounting file; if there is none, name the columns with --fields", c.name, c.line+1)
	default:
		b.spans = append(b.spans, span{start, end, c.line + 1, c.layout})
	}
	return nil
}

// beginsLikeHeader reports whether a record may be a header line in the middle of a file, as it is where
// files were put together.
func beginsLikeHeader(record []byte) bool {
	record = bytes.TrimPrefix(bytes.TrimPrefix(record, utf8Mark), []byte{'"'})
	return len(record) >= 4 && bytes.EqualFold(record[:4], []byte("type"))
}

// fill reads more text into the buffer. It returns io.EOF if there is none now.
func (c *cutter) fill() error {
	if cap(c.buffer)-len(c.buffer) < readBytes {
		c.buffer = append(make([]byte, 0, 2*len(c.buffer)+2*readBytes), c.buffer...)
	}
	for {
		n, err := c.in.Read(c.buffer[len(c.buffer):cap(c.buffer)])
		c.buffer = c.buffer[:len(c.buffer)+n]
		switch {
		case n > 0:
			return nil // an error comes again
		case errors.Is(err, io.EOF):
			return io.EOF
		case err != nil:
			return fmt.Errorf("read %s: %w", c.name, err)
		}
	}
}

// rest returns what stands behind the last whole record, nil if there is nothing.
func (c *cutter) rest() *Skipped {
	if len(c.buffer) == 0 {
		return nil
	}
	s := skipped(c.name, c.line+1, errors.New("the last line has no end: it is not written to its end"), string(c.buffer[:min(len(c.buffer), shownText)]))
	s.Reason = reasonCut
	return &s
}

// reasonCut is the reason of a last line without an end.
const reasonCut = "cut"

// convert makes events of the block's records.
func (b *block) convert(name string, c *pmta.Converter) {
	b.bad = b.broken
	for _, s := range b.spans {
		record := b.text[s.start:s.end]
		b.events = b.events[:len(b.events)+1]
		if err := c.Convert(record, s.layout, &b.events[len(b.events)-1]); err != nil {
			b.events = b.events[:len(b.events)-1]
			b.bad = append(b.bad, skipped(name, s.line, err, record))
		}
	}
	slices.SortStableFunc(b.bad, func(x, y Skipped) int { return cmp.Compare(x.Line, y.Line) })
	close(b.ready)
}
