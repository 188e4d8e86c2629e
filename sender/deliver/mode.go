package deliver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/sender/account"
	"carom/sender/backoff"
	"carom/sender/queue"
)

// badMailbox is what a bare 553 to RCPT means (smtp-553-means-invalid-mailbox).
var badMailbox = smtpstatus.Enhanced{Class: 5, Subject: 1, Detail: 1}

// meansBadMailbox reports whether a failure is such a 553.
func (s *session) meansBadMailbox(f failure) bool {
	return f.reply.Code == 553 && f.phase == event.PhaseRcpt && f.reply.Enhanced.IsZero() && s.way.settings.SMTP553MeansInvalidMailbox
}

// consult asks the queue's pattern list about a reply.
func (s *session) consult(reply smtpstatus.Reply, toRcpt bool, now time.Time) backoff.Decision {
	if reply.IsZero() || !s.way.list.Matters(reply.Code/100 == 2) {
		return backoff.Decision{}
	}
	policy := backoff.Policy{ToNormalAfter: s.way.settings.BackoffToNormalAfter, ReenableAfter: s.way.settings.ReenableSourceIPAfter}
	return s.way.list.Decide(policy, reply.String(), reply.Code, toRcpt, now)
}

// act does what a pattern asks of the queue and of the source.
func (s *session) act(d backoff.Decision, reply smtpstatus.Reply, now time.Time) {
	if d.Rule == "" {
		return
	}
	why := func() string { return fmt.Sprintf("pattern %s matched %q", d.Rule, reply.String()) }
	if d.Enter {
		s.enterBackoff(why(), d.Until)
	}
	if d.Leave {
		s.leaveBackoff(why())
	}
	if d.Disable && s.source.addr.IsValid() {
		s.disable(s.source.addr, why(), d.Again, now)
	}
	if d.Defer {
		s.queue.Failed(s.way.waits[s.way.mode(s.queue, now)], 0)
		s.over = true
	}
}

// enterBackoff puts the queue into backoff mode. Where its mail is to go another way then, the
// session ends, and the next one sends it there.
func (s *session) enterBackoff(why string, until time.Time) {
	if s.queue.EnterBackoff(why, until) {
		s.note("backoff", fmt.Sprintf("queue %s is in backoff mode: %s", s.queue, why))
	}
	if s.way.settings.BackoffRerouteToVirtualMTA != "" {
		s.over = true
	}
}

func (s *session) leaveBackoff(why string) {
	if s.queue.LeaveBackoff(why) {
		s.note("backoff", fmt.Sprintf("queue %s is in normal mode: %s", s.queue, why))
	}
}

// disable takes a source out of use for the queue. This session, which uses it, ends.
func (s *session) disable(source netip.Addr, why string, until, now time.Time) {
	s.over = true
	news := s.sourcesOf(s.queue.Name(), true).Disable(source, until, now)
	if !news {
		return
	}
	s.note("source", fmt.Sprintf("source %s is disabled for queue %s%s: %s", source, s.queue, untilText(until), why))
	if s.sourceLeft(now) {
		return
	}
	text := AllSourcesDisabled(s.queue.String())
	s.note("source", text)
	if s.way.settings.BackoffUponAllSourcesDisabled {
		end := time.Time{}
		if after := s.way.settings.BackoffToNormalAfter; after > 0 {
			end = now.Add(after)
		}
		s.enterBackoff(text, end)
	}
}

// sourceLeft reports whether the virtual MTA has a source that the queue may use.
func (s *session) sourceLeft(now time.Time) bool {
	out := s.disabledSources(now)
	return slices.ContainsFunc(s.way.sources, func(other source) bool { return !out.disabled(other.addr) })
}

func untilText(until time.Time) string {
	if until.IsZero() {
		return ""
	}
	return " until " + until.UTC().Format(time.RFC3339)
}

// outOfUse tells which sources the queue must not use, and notes when the first of those that were
// asked for comes back.
type outOfUse struct {
	agent   *Agent
	queue   string
	sources *backoff.Sources
	resting *resting
	now     time.Time
	first   time.Time
	why     string // the limit of the one that comes back first; "" if it is disabled
}

func (s *session) disabledSources(now time.Time) *outOfUse {
	return &outOfUse{agent: s.Agent, queue: s.queue.String(), sources: s.sourcesOf(s.queue.Name(), false), resting: &s.way.resting, now: now}
}

func (o *outOfUse) disabled(source netip.Addr) bool {
	if o.agent.SourceDisabled != nil && o.agent.SourceDisabled(o.queue, source) {
		return true
	}
	if held, ok := o.resting.at(source, o.now); ok {
		o.back(held.until, held.why)
		return true
	}
	if o.sources == nil {
		return false
	}
	until, disabled := o.sources.Disabled(source, o.now)
	if disabled && !until.IsZero() {
		o.back(until, "")
	}
	return disabled
}

// Disabled reports whether a pattern or an operator keeps a queue from using a source address at now.
func (a *Agent) Disabled(name queue.Name, source netip.Addr, now time.Time) bool {
	if a.SourceDisabled != nil && a.SourceDisabled(name.String(), source) {
		return true
	}
	sources := a.sourcesOf(name, false)
	if sources == nil {
		return false
	}
	_, disabled := sources.Disabled(source, now)
	return disabled
}

// back notes when a source comes back.
func (o *outOfUse) back(until time.Time, why string) {
	if o.first.IsZero() || until.Before(o.first) {
		o.first, o.why = until, why
	}
}

// lostSource reports whether an operator has taken the source of the connection from the queue.
func (s *session) lostSource() bool {
	return s.conn != nil && s.SourceDisabled != nil && s.SourceDisabled(s.queue.String(), s.source.addr)
}

// next5xx decides about a failed connection: whether the next target is tried, and whether the mail
// stays although the failure is permanent.
func (s *session) next5xx(f *failure) bool {
	now := clock.Now()
	d := s.consult(f.reply, false, now)
	s.act(d, f.reply, now)
	f.sourceGone = d.Disable
	f.stays = f.stays || d.SkipMX || f.phase == event.PhaseGreeting && !s.way.settings.BounceUpon5xxGreeting || d.Disable
	if d.Bounce {
		f.bounceQueue = true
		return false
	}
	return !s.over && (f.stays || !f.reply.Permanent())
}

// skipTime is for how long all sessions of a queue leave a host alone that a reply ruled out.
const skipTime = time.Minute

// skips are the hosts that a queue leaves alone.
type skips struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// skip rules a host out and reports whether the session has others left. If not, the next round
// begins with the first again.
func (s *session) skip(host string, now time.Time) bool {
	k := &s.way.skips
	k.mu.Lock()
	if k.until == nil {
		k.until = map[string]time.Time{}
	}
	k.until[host] = now.Add(skipTime)
	k.mu.Unlock()
	s.targets = k.filter(s.targets, now)
	if len(s.targets) > 0 {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.until)
	return false
}

// filter returns the targets that are not ruled out at now.
func (k *skips) filter(targets []target, now time.Time) []target {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.until) == 0 {
		return targets
	}
	return slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return now.Before(k.until[t.name]) })
}

// bounceQueue bounces all that the queue holds at this moment, as bounce-queue asks.
func (s *session) bounceQueue(ctx context.Context, reply smtpstatus.Reply) {
	verdict := s.judge(failure{phase: event.PhaseMail, reply: reply})
	text := "bounce-queue;reply:" + reply.String()
	template := event.ReplyTemplate(text)
	enhanced := "5.0.0"
	if reply.Enhanced.Class == 5 {
		enhanced = reply.Enhanced.String()
	}
	bounced := 0
	for left := s.queue.Status(clock.Now()).Recipients; left > 0 && ctx.Err() == nil; {
		item, ok := s.queue.NextAny()
		if !ok {
			break
		}
		left -= len(item.Recipients)
		envelope, err := s.Mail.Envelope(item.Message)
		if err != nil {
			s.unreadable(item, err)
			continue
		}
		for _, index := range item.Recipients {
			e := s.event(envelope, item, index, event.Bounced)
			e.Reply, e.ReplyTemplate, e.Enhanced = text, template, enhanced
			account.SetVerdict(e, verdict)
			s.submit(e)
			bounced++
		}
	}
	s.note("bounce-queue", fmt.Sprintf("%d recipients of queue %s bounced: %s", bounced, s.queue, text))
	s.over = true
}
