package e2e

import (
	"fmt"
	"time"

	"carom/deploy/receivers/provider"
)

// outcome is what one run showed, in scenario time.
type outcome struct {
	Scenario string `json:"scenario"`
	Loop     bool   `json:"loop"` // active; else off: the configuration alone, with its backoff

	Accepted         int     `json:"accepted"`
	Oracle           float64 `json:"oracle"`
	Goodput          float64 `json:"goodput_pct"`
	Deferrals        float64 `json:"deferrals_pct"` // RATE, BLOCK and UNAV of attempts but greylisted ones
	BlockMinutes     float64 `json:"block_minutes_caused"`
	BlockedPerMinute float64 `json:"attempts_per_blocked_minute"`
	RecoveryMinutes  float64 `json:"recovery_minutes"` // longest after a step of the hidden limit
	SilentMinutes    float64 `json:"silent_minutes"`   // longest time without an attempt, but for the first minutes
	P95DelayMinutes  float64 `json:"p95_delay_minutes"`

	Changes         int      `json:"changes"`
	Decreases       int      `json:"decreases"`
	Unexplained     []string `json:"unexplained,omitempty"` // changes whose numbers ClickHouse does not give again
	LatencySeconds  *float64 `json:"latency_p99_s"`         // of the machine, from a change's evidence to its lease in force
	LeaseAgeMinutes float64  `json:"lease_age_minutes"`
	LargestLease    float64  `json:"largest_lease"`
	Glides          uint64   `json:"attempts_under_a_glide"`

	Missed []string `json:"missed,omitempty"` // thresholds
	Error  string   `json:"error,omitempty"`

	rows []provider.Row
}

func (o *outcome) atLeast(what string, got, want float64) {
	if !(got >= want) { // NaN too
		o.Missed = append(o.Missed, fmt.Sprintf("%s is %.3g, want at least %.3g", what, got, want))
	}
}

func (o *outcome) atMost(what string, got, want float64) {
	if !(got <= want) {
		o.Missed = append(o.Missed, fmt.Sprintf("%s is %.3g, want at most %.3g", what, got, want))
	}
}

func (o *outcome) between(what string, got, low, high float64) {
	o.atLeast(what, got, low)
	o.atMost(what, got, high)
}

// pinned returns the attempts a second from one minute to another.
func (o *outcome) pinned(from, to float64) float64 {
	n := 0
	for _, r := range o.rows {
		if r.T >= 60*from && r.T < 60*to {
			n += r.Attempts
		}
	}
	return float64(n) / (60 * (to - from))
}

// fromReceivers fills in what the receivers saw until end: rows are those of one source.
func (o *outcome) fromReceivers(rows []provider.Row, steps []step, end time.Duration, oracle, caused float64) {
	o.rows = rows
	deferred, judged, blocked := 0, 0, 0
	blockedTime := 0.0
	last := 0.0
	for i, r := range rows {
		if r.T >= end.Seconds() {
			break
		}
		o.Accepted += r.OK + r.Classes[provider.User]
		deferred += r.Classes[provider.Rate] + r.Classes[provider.Block] + r.Classes[provider.Unav]
		judged += r.Attempts - r.Classes[provider.Grey]
		if r.Blocked {
			until := end.Seconds() // there is no row without an attempt
			if i+1 < len(rows) {
				until = min(until, rows[i+1].T)
			}
			blockedTime += (until - r.T) / 60
			blocked += r.Classes[provider.Block]
		}
		if r.Attempts > 0 {
			if last > 0 {
				o.SilentMinutes = max(o.SilentMinutes, (r.T-last)/60)
			}
			last = r.T
		}
	}
	o.SilentMinutes = max(o.SilentMinutes, (end.Seconds()-last)/60-provider.BucketSize.Minutes())
	o.Oracle, o.BlockMinutes = oracle, caused/60
	o.Goodput = percent(float64(o.Accepted), oracle)
	o.Deferrals = percent(float64(deferred), float64(judged))
	if blockedTime > 2 {
		o.BlockedPerMinute = float64(blocked) / blockedTime
	}
	for _, s := range steps {
		o.RecoveryMinutes = max(o.RecoveryMinutes, recovery(rows, s, end))
	}
}

// step is a change of the hidden limit.
type step struct {
	at    time.Duration
	limit float64 // after it
}

// settled is the share of the limit that has to be accepted over two minutes for a step to count as
// recovered from.
const settled = 0.8

// recovery returns how many minutes after a step two minutes begin in which settled of the limit is
// accepted; until the end if none do.
func recovery(rows []provider.Row, s step, end time.Duration) float64 {
	accepted := make([]int, int(end/provider.BucketSize)+1)
	for _, r := range rows {
		if i := int(r.T / provider.BucketSize.Seconds()); i < len(accepted) {
			accepted[i] += r.OK + r.Classes[provider.User]
		}
	}
	const span = int(2 * time.Minute / provider.BucketSize)
	for i := int(s.at/provider.BucketSize) + 1; i+span < len(accepted); i++ {
		n := 0
		for _, k := range accepted[i : i+span] {
			n += k
		}
		// The burst allowance right after the step is no recovery: what is accepted must not be far above.
		if rate := float64(n) / (2 * time.Minute).Seconds(); rate >= settled*s.limit && rate <= 1.5*s.limit {
			return float64(i)*provider.BucketSize.Minutes() - s.at.Minutes()
		}
	}
	return (end - s.at).Minutes()
}

func percent(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * part / whole
}
