// Package load makes load: `carom load mail` hands a scenario's mail to a node over SMTP and counts
// exactly what became of it.
//
// Which message goes to whom and when follows from the scenario and its seed alone (plan.go). A
// message counts as accepted only when the server said 250, and its line in the accept log is
// written before that. A 4xx is tried again later, a lost connection at once; a message whose final
// dot was sent without an answer is in doubt, and is sent again with the same Message-ID. One
// goroutine owns the plan, the counts and the log; one per connection speaks SMTP. Run is bounded:
// by the number of messages, and by Options.GiveUp without progress.
package load

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"

	"carom/deploy/receivers/scenarios"
)

// Options says what to send where.
type Options struct {
	Addr     string // host:port of the SMTP server
	Scenario *scenarios.Scenario
	// Messages is how many to send; 0 sends what is due in Duration.
	Messages int
	// RatePerSecond replaces the scenario's rates, keeping the streams' shares; 0 keeps them.
	RatePerSecond float64
	// Duration is the scenario time in which messages become due; 0 takes the scenario's. With
	// Messages and without RatePerSecond it sets the rate that just makes it.
	Duration    time.Duration
	TimeScale   int      // seconds of scenario time in a second; 0 takes the scenario's
	Connections int      // at most this many at a time, at least 1
	SizeBytes   int      // of a message, about
	FromDomain  string   // of senders and Message-IDs
	Job         string   // X-Job, and part of the Message-IDs; must be new for each run
	TenantName  string   // name of the header with the stream's tenant; empty sends none
	Headers     []string // further header fields, "Name: value"
	// Recipients is the number of different local parts; 0 writes to everyone once.
	Recipients int
	AcceptLog  io.Writer     // one Record a line; may be nil
	GiveUp     time.Duration // without progress while there is something to do; 0 means two minutes
	// Progress is called about once a second, from one goroutine; may be nil.
	Progress func(Summary)
}

// Status is what a Record says about its message.
type Status string

// The statuses. Accepted and Refused are final and come at most once for each message.
const (
	Accepted Status = "accepted"
	Refused  Status = "refused"  // by 5xx
	InDoubt  Status = "in_doubt" // no answer to the final dot; the message will be sent again
)

// Record is a line of the accept log.
type Record struct {
	Time      time.Time `json:"time"`
	Status    Status    `json:"status"`
	MessageID string    `json:"message_id"` // without brackets
	Recipient string    `json:"recipient"`
	Tenant    string    `json:"tenant"`
	Attempts  int       `json:"attempts"`
	WasDoubt  bool      `json:"was_in_doubt"` // an earlier attempt was in doubt, so a copy may exist
	Reply     string    `json:"reply,omitempty"`
}

// Summary is the result of a run, or its present state.
type Summary struct {
	Planned    int     `json:"planned"`
	Accepted   int     `json:"accepted"`
	Refused    int     `json:"refused"`
	Unfinished int     `json:"unfinished"` // neither accepted nor refused
	Deferrals  int     `json:"deferrals"`  // answers with 4xx
	InDoubt    int     `json:"in_doubt"`   // attempts whose final dot had no answer
	Reconnects int     `json:"reconnects"` // after a lost or refused connection
	Seconds    float64 `json:"seconds"`
	Rate       float64 `json:"accepted_per_s"`
	P50        float64 `json:"latency_p50_ms"` // of accepted transactions, from MAIL to 250
	P99        float64 `json:"latency_p99_ms"`
	LastError  string  `json:"last_error,omitempty"`
}

const (
	defaultGiveUp  = 2 * time.Minute
	firstRetry     = 500 * time.Millisecond // after a 4xx, doubled with each further one
	lastRetry      = 15 * time.Second
	progressPeriod = time.Second
)

// ErrIncomplete is wrapped by the error of a run that could not hand over everything.
var ErrIncomplete = errors.New("not everything was handed over")

// run is the state of one Run; the goroutine of Run owns it.
type run struct {
	o           Options
	plan        *plan
	start       time.Time
	scale       time.Duration
	retries     retries
	outstanding int // issued and not final
	progressed  time.Time
	latency     histogram
	sum         Summary
	log         *json.Encoder
}

// Run sends everything and returns the counts, also with an error. The error wraps ErrIncomplete when
// messages were refused or left over; configuration mistakes come before anything is sent.
func Run(ctx context.Context, o Options) (Summary, error) {
	if err := o.setDefaults(); err != nil {
		return Summary{}, err
	}
	p, err := newPlan(&o)
	if err != nil {
		return Summary{}, err
	}
	content, err := newContent(&o)
	if err != nil {
		return Summary{}, err
	}
	r := &run{o: o, plan: p, scale: time.Duration(o.TimeScale)}
	if o.AcceptLog != nil {
		r.log = json.NewEncoder(o.AcceptLog)
		r.log.SetEscapeHTML(false)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs, results, trouble := make(chan *message), make(chan result), make(chan error)
	var wg sync.WaitGroup
	for range o.Connections {
		wg.Go(func() {
			w := worker{addr: o.Addr, helo: o.FromDomain, content: content, results: results, trouble: trouble}
			w.run(ctx, jobs)
		})
	}
	err = r.dispatch(ctx, jobs, results, trouble)
	close(jobs)
	if err != nil {
		cancel() // workers may be busy with what nobody waits for any more
	}
	wg.Wait()
	return r.summary(), err
}

func (o *Options) setDefaults() error {
	if o.TimeScale == 0 {
		o.TimeScale = max(1, o.Scenario.Scale)
	}
	if o.GiveUp == 0 {
		o.GiveUp = defaultGiveUp
	}
	if o.Messages > 0 && o.Duration > 0 && o.RatePerSecond == 0 {
		o.RatePerSecond = float64(o.Messages) / o.Duration.Seconds()
	}
	if o.Duration == 0 {
		o.Duration = o.Scenario.Duration.D()
	}
	o.Connections = max(1, o.Connections)
	if o.Messages == 0 && o.Duration == 0 {
		return errors.New("the scenario has no duration: say how many messages, or how long")
	}
	if _, err := mail.ParseAddress("news@" + o.FromDomain); err != nil {
		return fmt.Errorf("from domain %q: %w", o.FromDomain, err)
	}
	if strings.ContainsFunc(o.Job, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`<>@"()[],;:\`, c) }) {
		return fmt.Errorf("job %q: want letters, digits, dots and dashes", o.Job)
	}
	for _, line := range slices.Concat(o.Headers, tenantField(o.TenantName)) {
		name, _, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }) || strings.ContainsAny(line, "\r\n") {
			return fmt.Errorf("header %q: want Name: value", line)
		}
	}
	return nil
}

func tenantField(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name + ":"}
}

// dispatch gives out messages as they become due and takes results until all are final.
func (r *run) dispatch(ctx context.Context, jobs chan<- *message, results <-chan result, trouble <-chan error) error {
	r.start = time.Now()
	r.progressed = r.start
	timer := time.NewTimer(0)
	defer timer.Stop()
	progress := time.NewTicker(progressPeriod)
	defer progress.Stop()
	for {
		next, wait := r.next(time.Now())
		if next == nil && wait < 0 && r.outstanding == 0 {
			return r.verdict()
		}
		out := jobs
		if next == nil {
			out = nil
		}
		timer.Stop()
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case out <- next:
			r.issue(next)
		case res := <-results:
			if err := r.take(res); err != nil {
				return err
			}
		case err := <-trouble:
			r.sum.LastError = err.Error()
		case <-timer.C:
		case now := <-progress.C:
			if r.o.Progress != nil {
				r.o.Progress(r.summary())
			}
			if next == nil && r.outstanding == 0 {
				r.progressed = now // nothing was due, so nothing could progress
			}
			if now.Sub(r.progressed) > r.o.GiveUp {
				return fmt.Errorf("nothing accepted for %s: %w", r.o.GiveUp, r.verdict())
			}
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), r.verdict())
		}
	}
}

// next returns the message that is due, a retry before a new one; or nil and how long to wait, which is
// negative when there is nothing to wait for.
func (r *run) next(now time.Time) (*message, time.Duration) {
	wait := time.Duration(-1)
	if len(r.retries) > 0 {
		if wait = r.retries[0].due.Sub(now); wait <= 0 {
			return r.retries[0], 0
		}
	}
	if m, ok := r.plan.peek(); ok {
		until := r.start.Add(m.at / r.scale).Sub(now)
		if until <= 0 {
			return m, 0
		}
		if wait < 0 || until < wait {
			wait = until
		}
	}
	return nil, wait
}

// issue accounts that a worker took m.
func (r *run) issue(m *message) {
	if len(r.retries) > 0 && r.retries[0] == m {
		heap.Pop(&r.retries)
		return
	}
	r.plan.pop()
	r.outstanding++
}

// take accounts the result of an attempt.
func (r *run) take(res result) error {
	m := res.message
	r.sum.Reconnects += res.reconnects
	if res.err != nil {
		r.sum.LastError = res.err.Error()
	}
	status := Status("")
	switch res.kind {
	case accepted:
		status = Accepted
	case refused:
		status = Refused
		r.sum.LastError = res.reply
	case unanswered:
		status = InDoubt
	case deferred:
		r.sum.LastError = res.reply
	}
	if status != "" && r.log != nil {
		err := r.log.Encode(Record{
			Time: time.Now().UTC(), Status: status, MessageID: m.id, Recipient: m.recipient, Tenant: m.tenant,
			Attempts: m.attempts, WasDoubt: m.inDoubt, Reply: res.reply,
		})
		if err != nil {
			return fmt.Errorf("write the accept log: %w", err)
		}
	}
	switch res.kind {
	case accepted:
		r.sum.Accepted++
		r.outstanding--
		r.latency.add(res.took)
		r.progressed = time.Now()
	case refused:
		r.sum.Refused++
		r.outstanding--
		r.progressed = time.Now()
	case unanswered:
		r.sum.InDoubt++
		m.inDoubt = true
		r.retry(m, 0)
	case deferred:
		r.sum.Deferrals++
		m.deferrals++
		r.retry(m, min(lastRetry, firstRetry<<min(m.deferrals-1, 10))/r.scale)
	}
	return nil
}

func (r *run) retry(m *message, after time.Duration) {
	m.due = time.Now().Add(after)
	heap.Push(&r.retries, m)
}

func (r *run) verdict() error {
	s := r.summary()
	if s.Refused == 0 && s.Unfinished == 0 {
		return nil
	}
	err := fmt.Errorf("%w: %d of %d messages refused, %d unfinished", ErrIncomplete, s.Refused, s.Planned, s.Unfinished)
	if s.LastError != "" {
		err = fmt.Errorf("%w; last: %s", err, s.LastError)
	}
	return err
}

func (r *run) summary() Summary {
	s := r.sum
	s.Planned = r.plan.total
	s.Unfinished = s.Planned - s.Accepted - s.Refused
	s.Seconds = time.Since(r.start).Seconds()
	if s.Seconds > 0 {
		s.Rate = float64(s.Accepted) / s.Seconds
	}
	s.P50, s.P99 = r.latency.quantile(0.50), r.latency.quantile(0.99)
	return s
}

// retries is a heap of messages by the time that they are due again.
type retries []*message

func (h retries) Len() int           { return len(h) }
func (h retries) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h retries) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *retries) Push(x any) {
	if m, ok := x.(*message); ok {
		*h = append(*h, m)
	}
}

// Pop implements heap.Interface.
func (h *retries) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
