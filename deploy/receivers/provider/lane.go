package provider

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Row is what happened between one provider and one source in one bucket of time.
type Row struct {
	T        float64 `json:"t_s"` // start of the bucket, seconds of scenario time
	Provider string  `json:"provider"`
	Source   string  `json:"source"`
	// Attempts is the sum of all classes but CONN and MSGC, which are about connections.
	Attempts int           `json:"attempts"`
	OK       int           `json:"ok"`
	Classes  map[Class]int `json:"classes"`
	Open     int           `json:"open"` // connections open at the end of the bucket, or now
	MaxOpen  int           `json:"max_open"`
	Limit    *float64      `json:"limit"` // recipients per second with the penalty in it; null for none
	Penalty  float64       `json:"penalty"`
	Blocked  bool          `json:"blocked"`
}

func (r *Row) add(c Class, n int) {
	if r.Classes == nil {
		r.Classes = map[Class]int{}
	}
	r.Classes[c] += n
	switch c {
	case Conn, Msgc:
	case OK:
		r.OK += n
		r.Attempts += n
	default:
		r.Attempts += n
	}
}

// lane is what a provider knows of one source.
type lane struct {
	bucket       bucket
	open         int
	penalty      float64
	blockedUntil time.Duration
	caused       time.Duration // block time that the source brought upon itself
	countFrom    int           // the first row that may lead to a block
	row          Row           // the present bucket, number len(rows)
	rows         []Row         // the buckets before, without gaps from time 0
}

// lane returns the lane of src with its buckets brought up to t.
func (p *Provider) lane(t time.Duration, src netip.Addr) *lane {
	l := p.lanes[src]
	if l == nil {
		l = &lane{penalty: 1, row: Row{Provider: p.cfg.Name, Source: src.String()}}
		p.lanes[src] = l
	}
	for end := time.Duration(len(l.rows)+1) * BucketSize; end <= t; end += BucketSize {
		p.finish(end, l)
		l.rows = append(l.rows, l.row)
		l.row = Row{T: end.Seconds(), Provider: p.cfg.Name, Source: l.row.Source, MaxOpen: l.open}
		p.adjustPenalty(l)
	}
	return l
}

// finish fills in what is read off at the end of a bucket.
func (p *Provider) finish(t time.Duration, l *lane) {
	l.row.Open, l.row.Penalty = l.open, l.penalty
	l.row.Blocked = p.blocked(t-1, l)
	if limit := p.limit(t-1, l); !math.IsInf(limit, 1) {
		l.row.Limit = &limit
	}
}

// adjustPenalty moves the penalty factor by what the last minute showed, one bucket's worth.
func (p *Provider) adjustPenalty(l *lane) {
	v := p.cfg.Penalty
	if !v.On {
		return
	}
	refused, all := l.refused(bucketsPerMinute)
	if all >= minPenaltyAttempts && float64(refused) > v.RefusedFrac*float64(all) {
		l.penalty = max(v.Floor, l.penalty*math.Pow(1-v.DownPerMinute, 1/float64(bucketsPerMinute)))
		return
	}
	l.penalty = min(1, l.penalty+v.UpPerMinute/float64(bucketsPerMinute))
}

// refused returns, over the last n buckets and the present one, how many attempts were refused for
// rate and how many were judged at all (greylisting and blocks are no judgement of the rate).
func (l *lane) refused(n int) (refused, all int) {
	add := func(r *Row) {
		refused += r.Classes[Rate]
		all += r.Attempts - r.Classes[Grey] - r.Classes[Block] - r.Classes[Unav]
	}
	for i := max(0, len(l.rows)-n, l.countFrom); i < len(l.rows); i++ {
		add(&l.rows[i])
	}
	if len(l.rows) >= l.countFrom {
		add(&l.row)
	}
	return refused, all
}

// hits counts the attempts that met a block in the last n buckets and the present one.
func (l *lane) hits(n int) int {
	sum := l.row.Classes[Block]
	for i := max(0, len(l.rows)-n); i < len(l.rows); i++ {
		sum += l.rows[i].Classes[Block]
	}
	return sum
}

// Rows returns the buckets that are over by t and begin at or after from, then the present ones when
// present is set; buckets without any traffic or connection are left out. The order is by time, then source.
func (p *Provider) Rows(t, from time.Duration, present bool) []Row {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := []Row{}
	for src := range p.lanes {
		l := p.lane(t, src)
		all := l.rows[min(len(l.rows), int((from+BucketSize-1)/BucketSize)):]
		for _, r := range all {
			if len(r.Classes) > 0 || r.MaxOpen > 0 {
				rows = append(rows, r)
			}
		}
		if present {
			p.finish(t+1, l)
			r := l.row
			r.Classes = maps.Clone(l.row.Classes)
			if r.Classes == nil {
				r.Classes = map[Class]int{} // {} in JSON, not null
			}
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		if a.T != b.T {
			return int(a.T - b.T)
		}
		if a.Source < b.Source {
			return -1
		}
		return 1
	})
	return rows
}

// Totals is what a provider did up to now.
type Totals struct {
	Provider string        `json:"provider"`
	Sources  int           `json:"sources"`
	Attempts int           `json:"attempts"`
	Classes  map[Class]int `json:"classes"`
	// BlockCaused is the block time, in seconds over all sources, that the scenario did not script.
	BlockCaused float64 `json:"block_caused_s"`
}

// Totals returns the sums over all sources up to t.
func (p *Provider) Totals(t time.Duration) Totals {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := Totals{Provider: p.cfg.Name, Sources: len(p.lanes), Classes: map[Class]int{}}
	for src := range p.lanes {
		l := p.lane(t, src)
		for i := range l.rows {
			sum.count(&l.rows[i])
		}
		sum.count(&l.row)
		sum.BlockCaused += (l.caused - max(0, l.blockedUntil-t)).Seconds()
	}
	return sum
}

func (s *Totals) count(r *Row) {
	s.Attempts += r.Attempts
	for c, n := range r.Classes {
		s.Classes[c] += n
	}
}

// Truth is the hidden state of a provider.
type Truth struct {
	Provider      string        `json:"provider"`
	RatePerS      *float64      `json:"rate_per_s"` // per source, before penalties; null for none
	Connections   int           `json:"connections"`
	MsgsPerConn   int           `json:"msgs_per_conn"`
	Outage        string        `json:"outage"`
	ScriptedBlock bool          `json:"scripted_block"`
	Sources       []SourceTruth `json:"sources"` // as they are now
}

// SourceTruth is the hidden state of one source at a provider.
type SourceTruth struct {
	Source       string  `json:"source"`
	Penalty      float64 `json:"penalty"`
	Open         int     `json:"open"`
	BlockedUntil float64 `json:"blocked_until_s"` // scenario time; 0 when it never was
}

// Truth returns the hidden limits in force at t; the sources' own state is always the latest.
func (p *Provider) Truth(t time.Duration) Truth {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, scripted := p.cfg.ScriptedUntil(t)
	truth := Truth{
		Provider: p.cfg.Name, Connections: p.cfg.Connections(t), MsgsPerConn: p.cfg.MsgsPerConn,
		Outage: string(p.cfg.OutageAt(t)), ScriptedBlock: scripted, Sources: []SourceTruth{},
	}
	if limit := p.cfg.Limit(t); !math.IsInf(limit, 1) {
		truth.RatePerS = &limit
	}
	for src, l := range p.lanes {
		truth.Sources = append(truth.Sources, SourceTruth{src.String(), l.penalty, l.open, l.blockedUntil.Seconds()})
	}
	slices.SortFunc(truth.Sources, func(a, b SourceTruth) int {
		if a.Source < b.Source {
			return -1
		}
		return 1
	})
	return truth
}
