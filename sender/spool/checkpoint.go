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
		stateSeq: s.state.Last(),
	}
	s.putting.Lock()
	head.messageSeq = s.messages.Last()
	s.putting.Unlock()
	s.mu.Lock()
	head.mark = s.mark
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
		for id, m := range s.index.messages {
			scratch = appendMessage(scratch[:0], id, m)
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
func appendMessage(b []byte, id event.ID, m *message) []byte {
	b = append(b, id[:]...)
	for _, n := range [...]uint64{
		m.pos.Segment, uint64(m.pos.Offset), uint64(m.envelope), uint64(m.received), m.receivedSeq, uint64(m.count()),
	} {
		b = binary.AppendUvarint(b, n)
	}
	for i := range uint64(m.count()) {
		r := m.recipient(i)
		if r.done {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(r.attempts)+1)
		b = binary.AppendUvarint(b, uint64(r.due))
	}
	return binary.AppendUvarint(b, uint64(m.body))
}

func decodeMessage(b []byte) (id event.ID, m *message, err error) {
	if len(b) < len(id) {
		return id, nil, errState
	}
	copy(id[:], b)
	n, err := numbers(b[len(id):], 7)
	if err != nil {
		return id, nil, err
	}
	head, rest := n[:6], n[6:]
	if head[5] == 0 || head[5] > uint64(len(rest)) || head[2] > maxCheckpointField {
		return id, nil, errState
	}
	m = newMessage(seglog.Position{Segment: head[0], Offset: int64(head[1])}, int(head[2]), 0, int(head[5]))
	m.received, m.receivedSeq = uint32(head[3]), head[4]
	for i := range head[5] {
		r := m.recipient(i)
		switch {
		case len(rest) == 0:
			return id, nil, errState
		case rest[0] == 0:
			r.done = true
			m.left--
			rest = rest[1:]
		case len(rest) == 1:
			return id, nil, errState
		default:
			r.attempts, r.due = uint32(rest[0]-1), int64(rest[1])
			rest = rest[2:]
		}
	}
	if m.left == 0 {
		return id, nil, errState
	}
	if len(rest) > 0 {
		m.body = uint32(rest[0])
	}
	return id, m, nil
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
		value.Reset()
		// Grows with what is there, not with what a length says.
		if m, err := io.CopyN(&value, r, int64(n)); err != nil || m < int64(n) {
			return head, errCheckpoint
		}
		if err := head.decode(field, value.Bytes(), x); err != nil {
			return head, fmt.Errorf("%w: field %d: %w", errCheckpoint, field, err)
		}
	}
}

func (h *checkpointHead) decode(field byte, v []byte, x *index) error {
	switch field {
	case fieldVersion:
		if n, err := numbers(v, 1); err != nil || n[0] != checkpointNow {
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
		n, err := numbers(v, 3)
		if err != nil {
			return err
		}
		h.stateSeq, h.messageSeq, h.mark = n[0], n[1], n[2]
	case fieldMessage:
		id, m, err := decodeMessage(v)
		if err != nil {
			return err
		}
		x.add(id, m)
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
