package account

import (
	"sync"

	"carom/schemas/event"
)

// RejectLog is a File of what was refused at the door: with r, messages and recipients, as the event
// log has them; with c, connections, which are no events: whoever is kept out must not be able to
// fill the event log. It is safe for concurrent use.
type RejectLog struct {
	mu   sync.Mutex
	file *File
}

// OpenRejectLog is OpenFile for a reject log.
func OpenRejectLog(o FileOptions) (*RejectLog, error) {
	o.Rejects = true
	file, err := OpenFile(o)
	if err != nil {
		return nil, err
	}
	return &RejectLog{file: file}, nil
}

var _ Sink = (*RejectLog)(nil)

// Write is part of Sink. It takes refused messages and recipients.
func (l *RejectLog) Write(e *event.Event, seq uint64) error {
	if e.Kind != event.Rejected {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(e, seq)
}

// RefusedConnection writes a connection that was refused: time, client, listener and reply of e count.
func (l *RejectLog) RefusedConnection(e *event.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Kind, e.MessageID = event.Rejected, event.ID{}
	return l.file.Write(e, 0)
}

// Flush is part of Sink.
func (l *RejectLog) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Flush()
}

// Rotate is part of Rotater.
func (l *RejectLog) Rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Rotate()
}

// Close closes the file.
func (l *RejectLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
