// Package provider decides what a simulated receiving provider answers: hidden rate with burst,
// connection limit, greylisting, unknown users, penalty, block and outage, per source.
//
// It is a model in virtual time: every call says when it happens, nothing here reads a clock, opens
// a connection or fails. Random decisions are hashes of the scenario's seed and of what they are
// about, so the same address is unknown in every run. A Provider is safe for concurrent use; the
// times of concurrent calls may differ a little in order.
package provider

import (
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"carom/deploy/receivers/scenarios"
)

// Class is how an attempt ended, in the words of the control loop's design.
type Class string

// The classes. CONN is a refused connection, MSGC the end of a connection after its last message;
// the others are verdicts over one recipient.
const (
	OK    Class = "OK"
	User  Class = "USER"  // the address does not exist
	Rate  Class = "RATE"  // over the hidden rate
	Conn  Class = "CONN"  // over the connection limit
	Msgc  Class = "MSGC"  // over the messages per connection
	Block Class = "BLOCK" // the source is blocked
	Grey  Class = "GREY"  // greylisted
	Unav  Class = "UNAV"  // outage
)

// Verdict is the answer to one command.
type Verdict struct {
	Class Class
	// Reply is the text for the class as the scenario has it, several lines parted by \n; empty
	// when Class is OK and the command is not the message itself.
	Reply string
	// Outage is set, with Class UNAV, when the provider does not answer at all.
	Outage scenarios.OutageKind
}

const (
	// BucketSize is the width of the rows of the statistics.
	BucketSize = 10 * time.Second
	// bucketsPerMinute is what the penalty and the hammering rule look at.
	bucketsPerMinute = int(time.Minute / BucketSize)
	// minPenaltyAttempts and minBlockAttempts keep a handful of refusals from being a share.
	minPenaltyAttempts = 5
	minBlockAttempts   = 20
	// hammerPerMinute is how many attempts a minute a blocked source may make without extending
	// its block: more than the canaries of a careful sender (one per 15 s), fewer than its queue.
	hammerPerMinute = 6
)

// Provider is one simulated provider.
type Provider struct {
	seed uint64

	mu    sync.Mutex
	cfg   scenarios.Provider
	lanes map[netip.Addr]*lane
	grey  map[uint64]time.Duration // first attempt of a greylisted pair
}

// New returns the provider that cfg describes, with all its buckets full.
func New(cfg scenarios.Provider, seed uint64) *Provider {
	return &Provider{seed: seed, cfg: cfg, lanes: map[netip.Addr]*lane{}, grey: map[uint64]time.Duration{}}
}

// Name returns the provider's name.
func (p *Provider) Name() string { return p.cfg.Name } // never changes

// Config returns the present configuration, with the steps that were taken live.
// The caller must not change what it points to.
func (p *Provider) Config() scenarios.Provider {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg
}

// Connect decides about a new connection from src. After OK the connection counts as open until
// Disconnect.
func (p *Provider) Connect(t time.Duration, src netip.Addr) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(t, src)
	if v, out := p.outage(t, l); out {
		return v
	}
	if limit := p.cfg.Connections(t); limit > 0 && l.open >= limit {
		l.row.add(Conn, 1)
		return p.verdict(Conn)
	}
	l.open++
	l.row.MaxOpen = max(l.row.MaxOpen, l.open)
	return Verdict{Class: OK}
}

// Disconnect ends a connection that Connect let in.
func (p *Provider) Disconnect(t time.Duration, src netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lane(t, src).open--
}

// Mail decides about MAIL FROM, as far as the provider refuses there.
func (p *Provider) Mail(t time.Duration, src netip.Addr) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(t, src)
	if v, refused := p.closed(t, l); refused {
		return v
	}
	if p.cfg.RefuseAt == "mail" && !l.bucket.has(t, p.limit(t, l), p.cfg.BurstSeconds) {
		return p.refuseRate(t, l, 1)
	}
	return Verdict{Class: OK}
}

// Rcpt decides about one recipient. OK counts nothing yet: the message may not follow. A token of
// the rate is taken here, also for an unknown user, unless the provider refuses at DATA.
func (p *Provider) Rcpt(t time.Duration, src netip.Addr, from, rcpt string) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(t, src)
	if v, refused := p.closed(t, l); refused {
		return v
	}
	if p.greylisted(t, src, from, rcpt) {
		l.row.add(Grey, 1)
		return p.verdict(Grey)
	}
	if p.cfg.RefuseAt != "data" && !l.bucket.take(t, p.limit(t, l), p.cfg.BurstSeconds, 1) {
		return p.refuseRate(t, l, 1)
	}
	if p.unknown(rcpt) {
		l.row.add(User, 1)
		return p.verdict(User)
	}
	return Verdict{Class: OK}
}

// Data decides about a whole message for n recipients that Rcpt let through.
func (p *Provider) Data(t time.Duration, src netip.Addr, n int) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(t, src)
	if p.cfg.RefuseAt == "data" && !l.bucket.take(t, p.limit(t, l), p.cfg.BurstSeconds, n) {
		return p.refuseRate(t, l, n)
	}
	l.row.add(OK, n)
	return p.verdict(OK)
}

// EndOfConnection counts that src used up a connection, and returns the answer to its next MAIL.
func (p *Provider) EndOfConnection(t time.Duration, src netip.Addr) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lane(t, src).row.add(Msgc, 1)
	return p.verdict(Msgc)
}

// Bounces reports whether mail that was accepted for rcpt bounces later, and after how long. The
// addresses that bounce are others than the unknown ones.
func (p *Provider) Bounces(rcpt string) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.unit("user", strings.ToLower(rcpt))
	if u < p.cfg.UnknownUsers || u >= p.cfg.UnknownUsers+p.cfg.AsyncBounces.Frac {
		return 0, false
	}
	return between(p.cfg.AsyncBounces.DelaySeconds, p.unit("bounce delay", rcpt)), true
}

// Complains reports whether rcpt reports the message messageID of tenant as spam, and after how long.
func (p *Provider) Complains(tenant, messageID, rcpt string) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.cfg.Complaints
	rate := c.Base
	if r, ok := c.Rates[tenant]; ok {
		rate = r
	}
	if c.FBLFrac != nil {
		rate *= *c.FBLFrac
	}
	if p.unit("complaint", messageID, strings.ToLower(rcpt)) >= rate {
		return 0, false
	}
	return between(c.DelaySeconds, p.unit("complaint delay", messageID, rcpt)), true
}

// outage answers for a provider that is out.
func (p *Provider) outage(t time.Duration, l *lane) (Verdict, bool) {
	kind := p.cfg.OutageAt(t)
	if kind == "" {
		return Verdict{}, false
	}
	l.row.add(Unav, 1)
	v := p.verdict(Unav)
	v.Outage = kind
	return v, true
}

// closed answers for an outage or a block, whichever is in force at t.
func (p *Provider) closed(t time.Duration, l *lane) (Verdict, bool) {
	if v, out := p.outage(t, l); out {
		return v, true
	}
	if !p.blocked(t, l) {
		return Verdict{}, false
	}
	l.row.add(Block, 1)
	if p.cfg.Block.Extend && l.hits(bucketsPerMinute) > hammerPerMinute {
		p.blockUntil(t, l, t+p.cfg.Block.Len.D())
	}
	return p.verdict(Block), true
}

func (p *Provider) blocked(t time.Duration, l *lane) bool {
	_, scripted := p.cfg.ScriptedUntil(t)
	return scripted || t < l.blockedUntil
}

// blockUntil blocks l until end and accounts the time that its own behaviour caused.
func (p *Provider) blockUntil(t time.Duration, l *lane, end time.Duration) {
	from := max(t, l.blockedUntil)
	if scripted, ok := p.cfg.ScriptedUntil(t); ok {
		from = max(from, scripted)
	}
	if end <= from {
		return
	}
	l.caused += end - from
	l.blockedUntil = end
	l.countFrom = len(l.rows) + 1 // what led here must not lead here again after the block
}

func (p *Provider) refuseRate(t time.Duration, l *lane, n int) Verdict {
	l.row.add(Rate, n)
	if b := p.cfg.Block; b.On {
		refused, all := l.refused(int(b.Window.D() / BucketSize))
		if all >= minBlockAttempts && float64(refused) > b.TriggerFrac*float64(all) {
			p.blockUntil(t, l, t+b.Len.D())
		}
	}
	return p.verdict(Rate)
}

// limit is the rate for l at t; +Inf when there is none.
func (p *Provider) limit(t time.Duration, l *lane) float64 {
	return p.cfg.Limit(t) * l.penalty
}

func (p *Provider) greylisted(t time.Duration, src netip.Addr, from, rcpt string) bool {
	if p.cfg.Grey.Frac <= 0 || p.unit("grey", from, rcpt) >= p.cfg.Grey.Frac {
		return false
	}
	key := hash(p.seed, "grey pair", src.String(), from, rcpt)
	first, seen := p.grey[key]
	if !seen {
		p.grey[key] = t
		return true
	}
	return t-first < p.cfg.Grey.MinRetry.D()
}

func (p *Provider) unknown(rcpt string) bool {
	return p.unit("user", strings.ToLower(rcpt)) < p.cfg.UnknownUsers
}

// unit maps what to a number in [0, 1), the same for the same provider and seed.
func (p *Provider) unit(what ...string) float64 {
	return float64(hash(p.seed, append(what, p.cfg.Name)...)>>11) / (1 << 53)
}

// between returns the duration at share u of the interval, in seconds.
func between(seconds [2]float64, u float64) time.Duration {
	return time.Duration((seconds[0] + u*(seconds[1]-seconds[0])) * float64(time.Second))
}

// hash is FNV-1a over seed and parts, finished as SplitMix64 does so that close inputs spread.
func hash(seed uint64, parts ...string) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037) ^ seed*0x9e3779b97f4a7c15
	for _, part := range parts {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * prime
		}
		h = (h ^ 0xff) * prime // so that ("a", "b") and ("ab", "") differ
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// rounding is what sums of float64 may lose of a token.
const rounding = 1e-6

// bucket is a token bucket whose rate may change between any two calls.
type bucket struct {
	tokens  float64
	at      time.Duration
	started bool
}

// refill brings the bucket to time t at rate limit; it starts full. The depth is burst seconds of
// the limit, and at least one message unless nothing at all is allowed.
func (b *bucket) refill(t time.Duration, limit, burst float64) {
	depth := max(limit*burst, min(limit, 1))
	if limit > 0 {
		depth = max(depth, 1)
	}
	if !b.started {
		b.started, b.tokens = true, depth
	} else {
		b.tokens = min(depth, b.tokens+limit*max(0, t-b.at).Seconds())
	}
	b.at = max(b.at, t)
}

func (b *bucket) has(t time.Duration, limit, burst float64) bool {
	if math.IsInf(limit, 1) {
		return true
	}
	b.refill(t, limit, burst)
	return b.tokens >= 1-rounding
}

// take takes n tokens if there is at least one; a message for many recipients may leave a debt,
// so the rate holds for recipients without starving such messages.
func (b *bucket) take(t time.Duration, limit, burst float64, n int) bool {
	if !b.has(t, limit, burst) {
		return false
	}
	b.tokens -= float64(n)
	return true
}
