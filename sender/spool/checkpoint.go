package spool

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// A checkpoint is the magic "caromspl", then fields as in an envelope (number, length, value), then
// the CRC-32C of everything before it in little-endian. Unknown fields are passed over.
const (
	checkpointMagic = "caromspl"

	fieldVersion  = 1 // uvarint
	fieldLogs     = 2 // incarnations of messages, state and event log, each as a field 1, 2, 3
	fieldThrough  = 3 // uvarints: state seq, message seq, event mark that the checkpoint includes
	fieldMessage  = 4 // one live message
	checkpointNow = 1 // version

	maxCheckpointField = 1 << 30
	checkpointChunk    = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkpointHead is what a checkpoint says beside the messages.
type checkpointHead struct {
	messagesLog, stateLog, eventLog string
	stateSeq                        uint64 // later state records come on top
	messageSeq                      uint64 // messages through here that are not in it are finished
	mark                            uint64
}

// checkpoint writes the index and removes the state that it replaces. It doesn't stop the others:
// messages are written as they are when their turn comes. That is right because state records
// after head.stateSeq are applied on top, in order, and all of them may be applied twice.
func (s *Spool) checkpoint(ctx context.Context) error {
	head := checkpointHead{
		messagesLog: s.messages.Incarnation(), stateLog: s.state.Incarnation(), eventLog: s.opt.EventLog,
		// Not the last one written: after power loss its number may belong to another record.
		stateSeq: s.state.Durable(),
	}
	if err := s.state.Err(); err != nil {
		return fmt.Errorf("checkpoint: %w", err) // the event log says what is lost
	}
	s.mu.Lock()
	head.messageSeq, head.mark = s.through, s.mark
	lost := s.pending.lost
	s.pending.lost = false
	s.mu.Unlock()
	err := s.writeCheckpoint(ctx, head)
	if err != nil {
		s.mu.Lock()
		s.pending.lost = s.pending.lost || lost
		s.mu.Unlock()
		return fmt.Errorf("checkpoint: %w", err)
	}
	s.written = 0
	s.marked = max(s.marked, head.mark)
	s.setDurable(head.mark)
	if _, err := s.state.RemoveBefore(head.stateSeq + 1); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (s *Spool) writeCheckpoint(ctx context.Context, head checkpointHead) error {
	return seglog.WriteFile(s.opt.FS, filepath.Join(s.dir, checkpointName), func(w io.Writer) error {
		sum := crc32.New(castagnoli)
		out := bufio.NewWriterSize(io.MultiWriter(w, sum), checkpointChunk)
		if _, err := out.Write(appendHead([]byte(checkpointMagic), head)); err != nil {
			return err
		}
		var chunk, scratch []byte
		s.mu.Lock()
		for id, h := range s.index.byID {
			scratch = appendMessage(scratch[:0], id, s.index.at(h), s.index.more[h])
			if chunk = appendField(chunk, fieldMessage, scratch); len(chunk) < checkpointChunk {
				continue
			}
			s.mu.Unlock()
			_, err := out.Write(chunk)
			if err == nil {
				err = s.flush(ctx)
			}
			chunk = chunk[:0]
			s.mu.Lock()
			if err != nil {
				s.mu.Unlock()
				return err
			}
		}
		s.mu.Unlock()
		if _, err := out.Write(chunk); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		_, err := w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
		return err
	})
}

func appendHead(b []byte, h checkpointHead) []byte {
	b = appendField(b, fieldVersion, binary.AppendUvarint(nil, checkpointNow))
	logs := appendField(nil, 1, h.messagesLog)
	logs = appendField(logs, 2, h.stateLog)
	b = appendField(b, fieldLogs, appendField(logs, 3, h.eventLog))
	through := binary.AppendUvarint(nil, h.stateSeq)
	through = binary.AppendUvarint(through, h.messageSeq)
	return appendField(b, fieldThrough, binary.AppendUvarint(through, h.mark))
}

// appendMessage appends the id and, as uvarints, segment, offset, bytes of the envelope, received
// events, highest received seq, number of recipients, and for each: 0 if it is finished, else
// attempts+1 and due. Then bytes of the body, which the first checkpoints did not have.
func appendMessage(b []byte, id event.ID, m *message, more []recipient) []byte {
	b = append(b, id[:]...)
	for _, n := range [...]uint64{
		m.segment, uint64(m.offset), uint64(m.envelope), uint64(m.received), m.receivedSeq, uint64(max(1, len(more))),
	} {
		b = binary.AppendUvarint(b, n)
	}
	if more == nil {
		b = binary.AppendUvarint(b, uint64(m.attempts)+1)
		b = binary.AppendUvarint(b, uint64(m.due))
	}
	for i := range more {
		r := &more[i]
		if r.done {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(r.attempts)+1)
		b = binary.AppendUvarint(b, uint64(r.due))
	}
	return binary.AppendUvarint(b, uint64(m.body))
}

func decodeMessage(b []byte) (id event.ID, m message, more []recipient, err error) {
	c := cursor{b: b}
	c.id(&id)
	m.segment, m.offset, m.envelope = c.uvarint(), uint32(c.below(1<<32)), uint32(c.below(maxCheckpointField+1))
	m.received, m.receivedSeq = uint32(c.below(1<<32)), c.uvarint()
	n := c.below(uint64(len(c.b)) + 1) // each takes a byte at least
	if c.bad || n == 0 {
		return id, m, nil, errState
	}
	if n > 1 {
		more = make([]recipient, n)
	}
	for i := range n {
		attempts := c.uvarint()
		if attempts == 0 {
			if more != nil {
				more[i].done = true
			}
			continue
		}
		due := int64(c.uvarint())
		m.left++
		if more == nil {
			m.attempts, m.due = uint32(attempts-1), due
		} else {
			more[i].attempts, more[i].due = uint32(attempts-1), due
		}
	}
	if len(c.b) > 0 {
		m.body = uint32(c.below(1 << 32))
	}
	if c.bad || m.left == 0 {
		return id, m, nil, errState
	}
	return id, m, more, nil
}

var errCheckpoint = errors.New("malformed checkpoint")

// readCheckpoint fills x from the checkpoint. Without a checkpoint the error is fs.ErrNotExist; after
// any error x may hold a part of it.
func readCheckpoint(fsys seglog.FS, name string, x *index) (head checkpointHead, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return head, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return head, err
	}
	end := size - crc32.Size
	if end < int64(len(checkpointMagic)) {
		return head, errCheckpoint
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, end)); err != nil {
		return head, err
	}
	var stored [crc32.Size]byte
	if _, err := f.ReadAt(stored[:], end); err != nil && !errors.Is(err, io.EOF) {
		return head, err
	}
	if binary.LittleEndian.Uint32(stored[:]) != sum.Sum32() {
		return head, fmt.Errorf("%w: checksum is wrong", errCheckpoint)
	}
	return decodeCheckpoint(bufio.NewReaderSize(io.NewSectionReader(f, 0, end), checkpointChunk), x)
}

func decodeCheckpoint(r *bufio.Reader, x *index) (head checkpointHead, err error) {
	magic := make([]byte, len(checkpointMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != checkpointMagic {
		return head, errCheckpoint
	}
	var value bytes.Buffer
	for {
		field, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return head, nil
		}
		if err != nil {
			return head, err
		}
		n, err := binary.ReadUvarint(r)
		if err != nil || n > maxCheckpointField {
			return head, errCheckpoint
		}
		v, err := peekField(r, int(n), &value)
		if err != nil {
			return head, errCheckpoint
		}
		if err := head.decode(field, v, x); err != nil {
			return head, fmt.Errorf("%w: field %d: %w", errCheckpoint, field, err)
		}
	}
}

// peekField reads n bytes, into large if the reader's own memory is not enough. They are good until
// the next call.
func peekField(r *bufio.Reader, n int, large *bytes.Buffer) ([]byte, error) {
	if n <= r.Size() {
		v, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		_, err = r.Discard(n)
		return v, err
	}
	large.Reset()
	// Grows with what is there, not with what a length says.
	_, err := io.CopyN(large, r, int64(n))
	return large.Bytes(), err
}

func (h *checkpointHead) decode(field byte, v []byte, x *index) error {
	switch field {
	case fieldVersion:
		if c := (cursor{b: v}); c.uvarint() != checkpointNow {
			return errors.New("unknown version")
		}
	case fieldLogs:
		return eachField(v, func(field byte, v []byte) error {
			switch field {
			case 1:
				h.messagesLog = string(v)
			case 2:
				h.stateLog = string(v)
			case 3:
				h.eventLog = string(v)
			}
			return nil
		})
	case fieldThrough:
		c := cursor{b: v}
		if h.stateSeq, h.messageSeq, h.mark = c.uvarint(), c.uvarint(), c.uvarint(); c.bad {
			return errState
		}
	case fieldMessage:
		id, m, more, err := decodeMessage(v)
		if err != nil {
			return err
		}
		x.remove(id) // where it is said twice
		x.add(id, m, more)
	}
	return nil
}

// loadCheckpoint returns what the checkpoint says, or a head that says nothing, with an empty index,
// if there is none that can be trusted.
func (s *Spool) loadCheckpoint() (head checkpointHead, ok bool, err error) {
	name := filepath.Join(s.dir, checkpointName)
	head, err = readCheckpoint(s.opt.FS, name, &s.index)
	switch {
	case err == nil && head.messagesLog == s.messages.Incarnation() && head.stateLog == s.state.Incarnation():
		return head, true, nil
	case err == nil:
		s.logger.Error("spool checkpoint belongs to other logs and is not used", "file", name)
	case errors.Is(err, errCheckpoint):
		s.damaged++
		s.logger.Error("spool checkpoint is damaged; every stored message counts as live", "file", name, "error", err)
	case !errors.Is(err, fs.ErrNotExist):
		return head, false, err
	case s.messages.Last() > 0:
		s.damaged++
		s.logger.Error("spool checkpoint is missing; every stored message counts as live", "file", name)
	}
	s.index = newIndex()
	return checkpointHead{}, false, nil
}
