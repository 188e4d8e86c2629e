package deliver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// oneMail is a spool that has the same content for every message.
type oneMail struct{ content []byte }

func (m *oneMail) Envelope(id event.ID) (*spool.Envelope, error) {
	return &spool.Envelope{
		ID: id, From: "news@shop.test", VMTA: config.DefaultVMTA, Tenant: "shop", Size: int64(len(m.content)),
		Recipients: []spool.Recipient{{Address: "ann.recipient@a.test"}},
	}, nil
}

func (m *oneMail) Read(id event.ID) (*spool.Envelope, []byte, error) {
	e, err := m.Envelope(id)
	return e, m.content, err
}

func (m *oneMail) Drop(event.ID, error) {}

func (m *oneMail) Rescheduled(event.ID, []uint32, uint32, time.Time) error { return nil }

// memoryLog is an event log that is durable at once and keeps nothing.
type memoryLog struct{ seq uint64 }

func (l *memoryLog) Append(_ context.Context, records ...[]byte) (seglog.Range, error) {
	first := l.seq + 1
	l.seq += uint64(len(records))
	return seglog.Range{First: first, Last: l.seq}, nil
}

type noSpool struct{}

func (noSpool) Received(event.ID, uint64) error         { return nil }
func (noSpool) Finished(event.ID, uint32, uint64) error { return nil }
func (noSpool) Mark(uint64) error                       { return nil }

// BenchmarkDeliver sends messages of 4 KiB over one connection to a peer that answers from a script,
// with the whole of deliver, smtpc, throttle and accounting, and no disk.
func BenchmarkDeliver(b *testing.B) {
	for _, chunking := range []bool{false, true} {
		b.Run(fmt.Sprintf("chunking=%v", chunking), func(b *testing.B) {
			addr := sink(b, chunking)
			c, _, err := config.Parse("test", fmt.Appendf(nil, "host-name node.test\ndefault-smtp-port %d\n<domain *>\nmax-smtp-out 1\nuse-starttls no\n</domain>\n", addr.Port()))
			if err != nil {
				b.Fatal(err)
			}
			keys, err := correlate.NewKeys(correlate.Key{ID: 1, Secret: []byte("0123456789abcdef")})
			if err != nil {
				b.Fatal(err)
			}
			recorder := account.NewRecorder(&memoryLog{}, noSpool{}, nil, 0, slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go func() { _ = recorder.Run(ctx) }()
			content := append([]byte("From: Shop <news@shop.test>\r\nTo: ann@a.test\r\nSubject: hello\r\n\r\n"), bytes.Repeat([]byte("0123456789012345678901234567890123456789012345678901234567890123456789\r\n"), 56)...)
			agent, err := New(Options{
				Config: c, Mail: &oneMail{content}, Resolver: names{mx: "mx.a.test", addr: addr.Addr()}, Recorder: recorder,
				Throttle: throttle.New(0), Suppressions: suppressed{}, Keys: keys, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				b.Fatal(err)
			}
			manager := queue.NewManager(agent, queue.Options{})
			name := queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA}
			arrived := queue.At(time.Now())
			for range b.N {
				item := &queue.Item{Message: event.NewID(), Arrived: arrived, Expires: arrived + queue.Moment(time.Hour.Microseconds()), Priority: queue.DefaultPriority}
				item.AddRecipient(0)
				manager.Add(name, item)
			}
			q := manager.Queue(name)
			b.ReportAllocs()
			b.SetBytes(int64(len(content)))
			b.ResetTimer()
			for q.Status(time.Now()).Recipients > 0 {
				agent.Run(ctx, q)
			}
		})
	}
}
