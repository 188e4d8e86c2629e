package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// journal is a log, a spool and a sink that writes down who was told what, in order.
type journal struct {
	mu     sync.Mutex
	lines  []string
	seq    uint64
	events []event.Event

	gate       chan struct{} // if set, Append waits for it
	appendErr  error
	spoolErr   error
	sinkErr    error
	batches    []int
	inAppend   chan struct{} // if set, Append says that it was called
	appendSeen atomic.Int64
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) Append(_ context.Context, records ...[]byte) (seglog.Range, error) {
	j.appendSeen.Add(1)
	if j.inAppend != nil {
		j.inAppend <- struct{}{}
	}
	if j.gate != nil {
		<-j.gate
	}
	j.note("append %d", len(records))
	if j.appendErr != nil {
		return seglog.Range{}, j.appendErr
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range records {
		var e event.Event
		if err := event.Decode(r, &e); err != nil {
			return seglog.Range{}, err
		}
		j.events = append(j.events, e)
	}
	j.batches = append(j.batches, len(records))
	first := j.seq + 1
	j.seq += uint64(len(records))
	return seglog.Range{First: first, Last: j.seq}, nil
}

func (j *journal) Received(m event.ID, seq uint64) error {
	j.note("received %s %d", short(m), seq)
	return j.spoolErr
}

func (j *journal) Finished(m event.ID, recipient uint32, seq uint64) error {
	j.note("finished %s/%d %d", short(m), recipient, seq)
	return j.spoolErr
}

func (j *journal) Mark(seq uint64) error {
	j.note("mark %d", seq)
	return nil
}

func (j *journal) Write(e *event.Event, seq uint64) error {
	j.note("sink %s %d", e.Kind, seq)
	return j.sinkErr
}

func (j *journal) Flush() error {
	j.note("flush")
	return j.sinkErr
}

func (j *journal) text() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func id(n byte) event.ID { return event.ID{15: n} }

func short(m event.ID) string { return fmt.Sprint(m[15]) }

// recorder returns a recorder over j, which is its sink too.
func (j *journal) recorder(t *testing.T) *Recorder {
	t.Helper()
	return NewRecorder(j, j, []Sink{j}, 7, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// run runs r and returns how to stop it and what it returned.
func run(ctx context.Context, r *Recorder) (stop func(), done chan error) {
	ctx, stop = context.WithCancel(ctx)
	done = make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return stop, done
}

func TestOrder(t *testing.T) {
	j := &journal{}
	r := j.recorder(t)
	events := []*event.Event{
		{Kind: event.Received, MessageID: id(1)},
		{Kind: event.Received, MessageID: id(1), RecipientIdx: 1},
		{Kind: event.Deferred, MessageID: id(1)},
		{Kind: event.Delivered, MessageID: id(1), RecipientIdx: 1},
		{Kind: event.QueueDeferred, Recipients: 5},
		{Kind: event.Complaint, MessageID: id(2)},
		{Kind: event.Expired, MessageID: id(1)},
	}
	tickets := make([]*Ticket, len(events))
	for i, e := range events {
		tickets[i] = r.Submit(e)
	}
	stop, done := run(t.Context(), r)
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []string{
		"append 7",
		"received 1 1", "received 1 2", "finished 1/1 4", "finished 1/0 7", "mark 7",
		"sink received 1", "sink received 2", "sink deferred 3", "sink delivered 4", "sink queue-deferred 5", "sink complaint 6", "sink expired 7",
		"flush",
	}
	if diff := cmp.Diff(want, j.text()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, e := range j.events {
		if e.FormatVersion != event.FormatVersion || e.Time.IsZero() || e.ConfigHash != 7 || e.Recipients != max(1, events[i].Recipients) || i == 4 && e.Recipients != 5 {
			t.Errorf("event %d is not filled in: %+v", i, e)
		}
	}
}

func TestWaitMeansDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{gate: make(chan struct{})}
		r := j.recorder(t)
		stop, done := run(t.Context(), r)
		recorded := make(chan error, 1)
		go func() {
			recorded <- r.Record(t.Context(), &event.Event{Kind: event.Delivered, MessageID: id(1)}, &event.Event{Kind: event.Rejected})
		}()
		synctest.Wait() // the log is not done
		if len(recorded) > 0 || len(j.text()) > 0 {
			t.Fatalf("before the log: recorded %d, told %q", len(recorded), j.text())
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Record(gone, &event.Event{Kind: event.Rejected}); !errors.Is(err, context.Canceled) {
			t.Errorf("Record without patience gives %v", err)
		}
		close(j.gate)
		if err := <-recorded; err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(j.events) != 3 {
			t.Errorf("%d events in the log, want 3", len(j.events))
		}
	})
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{gate: make(chan struct{})}
		r := j.recorder(t)
		stop, done := run(t.Context(), r)
		r.Submit(&event.Event{Kind: event.Rejected})
		synctest.Wait() // one event is being written; what comes now makes the next batches
		for range maxBatch + 10 {
			r.Submit(&event.Event{Kind: event.Rejected})
		}
		close(j.gate)
		synctest.Wait()
		if diff := cmp.Diff([]int{1, maxBatch, 10}, j.batches); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSubmitBlocksAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{gate: make(chan struct{})}
		r := j.recorder(t)
		stop, done := run(t.Context(), r)
		submitted := 0
		go func() {
			for range 3 * queueLength {
				r.Submit(&event.Event{Kind: event.Rejected})
				submitted++
			}
		}()
		synctest.Wait()
		if submitted >= 3*queueLength {
			t.Error("Submit never blocks")
		}
		close(j.gate)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(j.events) != 3*queueLength {
			t.Errorf("%d events in the log, want %d", len(j.events), 3*queueLength)
		}
	})
}

func TestRunDrains(t *testing.T) {
	j := &journal{}
	r := j.recorder(t)
	tickets := make([]*Ticket, 0, queueLength)
	for range queueLength {
		tickets = append(tickets, r.Submit(&event.Event{Kind: event.Rejected}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Record(t.Context(), &event.Event{Kind: event.Rejected}); !errors.Is(err, ErrStopped) {
		t.Errorf("Record after Run gives %v, want ErrStopped", err)
	}
	for range queueLength + 1 { // never blocks
		r.Submit(&event.Event{Kind: event.Rejected})
	}
}

func TestFailureStopsEverything(t *testing.T) {
	broken := errors.New("disk is gone")
	for _, tc := range []struct {
		name    string
		journal *journal
	}{
		{"log", &journal{appendErr: broken}},
		{"spool", &journal{spoolErr: broken}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := tc.journal
				j.gate = make(chan struct{})
				r := j.recorder(t)
				_, done := run(t.Context(), r)
				const waiters = queueLength + 2*maxBatch // some of them cannot even submit
				answers := make(chan error, waiters)
				for range waiters {
					go func() {
						answers <- r.Record(t.Context(), &event.Event{Kind: event.Delivered, MessageID: id(1)})
					}()
				}
				synctest.Wait()
				close(j.gate)
				for range waiters {
					if err := <-answers; !errors.Is(err, broken) || !errors.Is(err, ErrStopped) {
						t.Fatalf("Record gives %v, want the reason and ErrStopped", err)
					}
				}
				if err := <-done; !errors.Is(err, broken) {
					t.Errorf("Run gives %v, want %v", err, broken)
				}
				if n := j.appendSeen.Load(); n != 1 {
					t.Errorf("the log was written %d times, want once", n)
				}
				if told := j.text(); tc.name == "log" && len(told) != 1 {
					t.Errorf("after a failed append: %q", told)
				}
			})
		})
	}
}

func TestASinkThatFailsStopsNothing(t *testing.T) {
	j := &journal{sinkErr: errors.New("no space")}
	var out strings.Builder
	r := NewRecorder(j, j, []Sink{j}, 0, slog.New(slog.NewTextHandler(&out, nil)))
	stop, done := run(t.Context(), r)
	for range 5 {
		if err := r.Record(t.Context(), &event.Event{Kind: event.Rejected}, &event.Event{Kind: event.Rejected}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "no space"); n != 1 {
		t.Errorf("the log tells it %d times, want once:\n%s", n, out.String())
	}
	sink := r.sinks[0]
	r.noteSink(sink, nil)
	r.noteSink(sink, nil)
	if n := strings.Count(out.String(), "again"); n != 1 {
		t.Errorf("the log tells %d times that it is over, want once:\n%s", n, out.String())
	}
}

func TestSinksAreFlushedWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		stop, done := run(t.Context(), j.recorder(t))
		time.Sleep(2*flushInterval + time.Second) // of the bubble
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"flush", "flush"}, j.text()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestStopUnderLoad looks for waiters that are never answered.
func TestStopUnderLoad(t *testing.T) {
	for range 50 {
		j := &journal{}
		r := j.recorder(t)
		stop, done := run(t.Context(), r)
		var wg sync.WaitGroup
		var durable atomic.Int64
		for range 8 {
			wg.Go(func() {
				for {
					if err := r.Record(context.Background(), &event.Event{Kind: event.Rejected}); err != nil {
						if !errors.Is(err, ErrStopped) {
							t.Error(err)
						}
						return
					}
					if durable.Add(1) == 100 {
						stop()
					}
				}
			})
		}
		wg.Wait()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if int64(len(j.events)) != durable.Load() {
			t.Fatalf("%d events in the log, %d were said to be durable", len(j.events), durable.Load())
		}
	}
}

// Events of one submitter keep their order, in a real log, whatever the others do.
func TestLogKeepsTheOrderOfEachSubmitter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		counts := rapid.SliceOfN(rapid.IntRange(0, 100), 1, 4).Draw(rt, "events of each submitter")
		dir := filepath.Join(t.TempDir(), "log")
		log, err := seglog.Open(dir, seglog.Options{SegmentBytes: 4 << 10})
		if err != nil {
			rt.Fatal(err)
		}
		j := &journal{}
		r := NewRecorder(log, j, nil, 0, slog.New(slog.DiscardHandler))
		stop, done := run(t.Context(), r)
		var wg sync.WaitGroup
		total := 0
		for submitter, n := range counts {
			total += n
			wg.Go(func() {
				for i := range n {
					e := &event.Event{Kind: event.Delivered, MessageID: id(byte(submitter)), RecipientIdx: uint32(i)}
					if i%25 == 0 {
						if err := r.Record(t.Context(), e); err != nil {
							t.Error(err)
						}
						continue
					}
					r.Submit(e)
				}
			})
		}
		wg.Wait()
		stop()
		if err := errors.Join(<-done, log.Close()); err != nil {
			rt.Fatal(err)
		}
		reader, err := seglog.OpenReader(dir, 1, seglog.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer reader.Close()
		next := map[string]uint32{}
		var e event.Event
		for seq := uint64(1); ; seq++ {
			entry, ok, err := reader.TryNext()
			if err != nil {
				rt.Fatal(err)
			}
			if !ok {
				if seq-1 != uint64(total) {
					rt.Fatalf("%d events in the log, %d were submitted", seq-1, total)
				}
				return
			}
			if err := event.Decode(entry.Data, &e); err != nil {
				rt.Fatal(err)
			}
			submitter := short(e.MessageID)
			if entry.Seq != seq || e.RecipientIdx != next[submitter] {
				rt.Fatalf("seq %d, event %d of submitter %s; want seq %d, event %d", entry.Seq, e.RecipientIdx, submitter, seq, next[submitter])
			}
			next[submitter]++
			if line := fmt.Sprintf("finished %s/%d %d", submitter, e.RecipientIdx, seq); !slices.Contains(j.lines, line) {
				rt.Fatalf("the spool was not told %q", line)
			}
		}
	})
}

func TestSetVerdict(t *testing.T) {
	var e event.Event
	SetVerdict(&e, classify.Classify(classify.Input{Reply: smtpstatus.Parse("550 5.1.1 no such user")}))
	want := event.Event{
		Category: taxonomy.BadMailbox, Class: taxonomy.Hard, Dimension: taxonomy.User,
		ClassifierVersion: classify.Version, PMTACategory: "bad-mailbox",
	}
	if diff := cmp.Diff(want, e, cmp.Comparer(func(a, b event.Event) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func BenchmarkRecord(b *testing.B) {
	log, err := seglog.Open(b.TempDir(), seglog.Options{})
	if err != nil {
		b.Fatal(err)
	}
	r := NewRecorder(log, &quiet{}, nil, 0, slog.New(slog.DiscardHandler))
	stop, done := run(b.Context(), r)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := delivered()
			if err := r.Record(context.Background(), &e); err != nil {
				b.Fatal(err)
			}
		}
	})
	stop()
	if err := errors.Join(<-done, log.Close()); err != nil {
		b.Fatal(err)
	}
}

// quiet is a spool that forgets.
type quiet struct{}

func (quiet) Received(event.ID, uint64) error         { return nil }
func (quiet) Finished(event.ID, uint32, uint64) error { return nil }
func (quiet) Mark(uint64) error                       { return nil }
