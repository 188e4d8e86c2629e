package reports

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	maxSending  = 8               // connections at a time
	sendTimeout = time.Minute     // for one report, the connection included
	retryAfter  = 2 * time.Second // between attempts; a node that restarts is back soon
	maxAge      = 10 * time.Minute
)

// Mail is one report to be sent.
type Mail struct {
	Due  time.Time
	Addr string // host:port of the SMTP server
	HELO string
	From string // empty for the null sender
	To   string
	Body []byte
}

// Mailer sends reports when they are due. Its methods are safe for concurrent use.
type Mailer struct {
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	queue   mails
	sending int
	sent    int
	failed  int
}

// NewMailer returns a Mailer; Run makes it work.
func NewMailer(log *slog.Logger) *Mailer {
	return &Mailer{log: log, wake: make(chan struct{}, 1)}
}

// Add queues m and never blocks.
func (m *Mailer) Add(mail Mail) {
	m.mu.Lock()
	heap.Push(&m.queue, queued{Mail: mail, at: mail.Due})
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Counts is what became of the reports.
type Counts struct {
	Sent    int `json:"sent"`
	Failed  int `json:"failed"` // refused for good, or given up
	Pending int `json:"pending"`
}

// Counts returns the present counts.
func (m *Mailer) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Counts{Sent: m.sent, Failed: m.failed, Pending: len(m.queue) + m.sending}
}

// Run sends until ctx ends, then waits for the attempts in flight, which end with ctx too.
func (m *Mailer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxSending)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		mail, wait, ok := m.next(time.Now())
		if ok {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				m.done(mail, ctx.Err())
				return
			}
			wg.Go(func() {
				m.done(mail, send(ctx, &mail.Mail))
				<-slots
			})
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-m.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first report if it is due, or says how long to wait.
func (m *Mailer) next(now time.Time) (queued, time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return queued{}, time.Hour, false
	}
	if wait := m.queue[0].at.Sub(now); wait > 0 {
		return queued{}, wait, false
	}
	m.sending++
	mail, _ := heap.Pop(&m.queue).(queued)
	return mail, 0, true
}

// done accounts an attempt and queues the report again where that makes sense.
func (m *Mailer) done(mail queued, err error) {
	reply, replied := errors.AsType[*smtp.SMTPError](err)
	now := time.Now()
	m.mu.Lock()
	m.sending--
	gaveUp := false
	switch {
	case err == nil:
		m.sent++
	case replied && !reply.Temporary(), now.Sub(mail.Due) > maxAge:
		m.failed++
		gaveUp = true
	default:
		mail.at = now.Add(retryAfter)
		heap.Push(&m.queue, mail)
	}
	m.mu.Unlock()
	if gaveUp {
		m.log.Warn("report not delivered", "to", mail.Addr, "error", err)
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func send(ctx context.Context, mail *Mail) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", mail.Addr)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := smtp.NewClient(conn)
	defer func() { _ = c.Close() }()
	if err := c.Hello(mail.HELO); err != nil {
		return fmt.Errorf("say hello to %s: %w", mail.Addr, err)
	}
	if err := c.SendMail(mail.From, []string{mail.To}, bytes.NewReader(mail.Body)); err != nil {
		return fmt.Errorf("send report to <%s> at %s: %w", mail.To, mail.Addr, err)
	}
	_ = c.Quit() // the report is theirs already
	return nil
}

// queued is a report with the time of its next attempt.
type queued struct {
	Mail
	at time.Time
}

// mails is a heap by time.
type mails []queued

func (q mails) Len() int           { return len(q) }
func (q mails) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q mails) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *mails) Push(x any) {
	if mail, ok := x.(queued); ok {
		*q = append(*q, mail)
	}
}

// Pop implements heap.Interface.
func (q *mails) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = queued{}
	*q = old[:len(old)-1]
	return last
}
