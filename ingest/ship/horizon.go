package ship

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// stampGauges says in the gauges of b how far the events of the node are stored, so that the control loop
// does not take for complete what is still on its way. Where that cannot be told it says nothing.
func (s *Shipper) stampGauges(b *batch[event.Gauge]) {
	var last event.Gauge
	if err := event.DecodeGauge(b.record(len(b.seqs)-1), &last); err != nil {
		return // b could add it
	}
	// The gauges of b were written before the log of events is looked at.
	waiting, err := s.oldestWaiting()
	if err != nil {
		return
	}
	if to := last.Time; waiting.IsZero() || waiting.After(to) {
		b.block.SetTimes("events_to", to)
	} else {
		b.block.SetTimes("events_to", waiting)
	}
}

// oldestWaiting returns the time of the first event that is not stored yet, zero if all are. It reads the log's
// last segment up to there, 64 MB in 24 ms, for each batch of gauges.
func (s *Shipper) oldestWaiting() (time.Time, error) {
	r, err := seglog.OpenReader(filepath.Join(s.opt.Dir, event.StreamEvent), s.seqs[0].Load()+1, seglog.Options{})
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = r.Close() }() // only read
	entry, ok, err := r.TryNext()
	if err != nil || !ok {
		return time.Time{}, err
	}
	var e event.Event
	err = event.Decode(entry.Data, &e)
	return e.Time, err
}
