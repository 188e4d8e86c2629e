package ship

import (
	"testing"
	"time"

	"carom/schemas/event"
)

// A gauge says how far the events of its node are stored, however the agent comes to send it.
func TestGaugesSayHowFarEventsAreStored(t *testing.T) {
	n := newNode(t)
	at := time.Now().UTC().Truncate(time.Microsecond)
	gauge := func(seconds int) {
		record := event.EncodeGauge(nil, &event.Gauge{Time: at.Add(time.Duration(seconds) * time.Second), Provider: "google", Source: "192.0.2.1"})
		n.append(event.StreamGauge, record, record)
	}
	occur := func(seconds int) {
		e := event.Event{FormatVersion: event.FormatVersion, Time: at.Add(time.Duration(seconds) * time.Second), Kind: event.Delivered, MessageID: event.NewID(), Recipients: 1}
		n.append(event.StreamEvent, event.Encode(nil, &e))
	}
	events := make(chan struct{})
	s, _ := n.start(Options{fault: func(stream, step string) error {
		if stream == event.StreamEvent && step == "insert" {
			<-events
		}
		return nil
	}})
	// want appends two gauges of a time and checks what they say once they are stored.
	want := func(gaugeAt int, to time.Time, why string) {
		t.Helper()
		next := s.Status().GaugeSeq + 2
		gauge(gaugeAt)
		within(t, "gauges shipped", func() bool { return s.Status().GaugeSeq == next })
		rows, err := n.conn.Query(t.Context(), "SELECT events_to FROM gauges WHERE seq > $1", next-2)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		count := 0
		for ; rows.Next(); count++ {
			var got time.Time
			if err := rows.Scan(&got); err != nil {
				t.Fatal(err)
			}
			if !got.Equal(to) {
				t.Errorf("%s: events_to is %v, want %v", why, got, to)
			}
		}
		if err := rows.Err(); err != nil || count != 2 {
			t.Errorf("%s: %d rows, %v", why, count, err)
		}
	}
	want(1, at.Add(time.Second), "there is no event")
	occur(2)
	occur(3)
	want(4, at.Add(2*time.Second), "two events wait")
	events <- struct{}{}
	within(t, "events shipped", func() bool { return s.Status().EventSeq == 2 })
	want(5, at.Add(5*time.Second), "all is stored")
	occur(6)
	want(5, at.Add(5*time.Second), "an event is younger than the gauge")
	close(events)
}
