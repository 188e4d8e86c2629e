package e2e

import (
	"fmt"
	"strings"
	"time"
)

// staticRate is what the configuration allows in messages a second of scenario time, and the load offers
// a little more. Twenty times that is what a small machine does with all of carom on it; the scenarios of
// the design have 10/s and scale with it.
const staticRate = 4

// act is something that happens to the system in the middle of a run.
type act struct {
	at   time.Duration // of scenario time
	kind actKind
	len  time.Duration // for stops
	args []string      // for operator: what follows "carom limits"
}

type actKind string

const (
	stopClickHouse actKind = "clickhouse_stop"
	stopAnalytics  actKind = "analytics_stop"
	operator       actKind = "operator"
)

// trial is one scenario of design/control.md section 8 with what it has to show.
type trial struct {
	name, about string
	duration    time.Duration // of scenario time
	provider    string        // JSON of the provider, without its name, domain, host and latency
	offered     string        // JSON of the load's per_s
	steps       []step        // of the hidden limit
	acts        []act

	rate   float64 // messages a second that the configuration allows; 0 is staticRate
	warmup bool    // the address is new and warmed up
	policy string  // lines of policy.yaml besides the mode
	// check adds what the loop's run has to show.
	check func(o *outcome)
}

// scenario returns the scenario file of a trial.
func (t *trial) scenario(scale int) string {
	return fmt.Sprintf(`{
  "version": 1, "seed": 7, "scale": %d, "duration": "%s",
  "providers": [{"name": "hidden", "domains": ["hidden.test"], "mx": ["mx1.hidden.test"], "latency_ms": [100, 300], %s}],
  "load": [{"tenant": "shop", "domains": {"hidden.test": 1}, "per_s": %s}]
}
`, scale, t.duration, strings.TrimSpace(t.provider), t.offered)
}

// configured returns the messages a second that the configuration allows.
func (t *trial) configured() float64 {
	if t.rate > 0 {
		return t.rate
	}
	return staticRate
}

// penalty is a receiver that grows stricter for who keeps running into its limit.
const penalty = `"burst_s": 30, "penalty": {"on": true, "refused_frac": 0.2, "down_per_min": 0.25, "up_per_min": 0.05, "floor": 0.1},
    "block": {"on": true, "trigger_frac": 0.6, "window": "15m", "len": "30m"},
    "texts": {"RATE": "421-4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP address [{ip}].\n421 4.7.28 To protect our users from spam, mail sent from your IP address has been temporarily rate limited."}`

const always5 = `[{"at": "0s", "v": 5}]`

// bursts is mail at three times what is accepted for a third of the time, 20 minutes of each hour.
const bursts = `[{"at": "0s", "v": 0.2}, {"at": "20m", "v": 0}, {"at": "60m", "v": 0.2}, {"at": "80m", "v": 0}, {"at": "120m", "v": 0.2}, {"at": "140m", "v": 0}, {"at": "180m", "v": 0.2}, {"at": "200m", "v": 0}]`

const few = `"rate": [{"at": "0s", "per_s": 0.0667}], "burst_s": 60`

// trials are the scenarios of `carom loop e2e`, by the names that control.md section 8 has for them. The
// thresholds of the loop are those there.
func trials() []trial {
	return []trial{
		{
			name: "A1", about: "steady, configured rightly", duration: 40 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}], "burst_s": 30`, offered: always5,
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 94)
				o.atMost("deferrals %", o.Deferrals, 3)
				o.atMost("block minutes", o.BlockMinutes, 0)
			},
		},
		{
			name: "A3", about: "the limit falls to a quarter and punishes", duration: 80 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}, {"at": "25m", "per_s": 1}], ` + penalty, offered: always5,
			steps: []step{{25 * time.Minute, 1}},
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 85)
				o.atMost("deferrals %", o.Deferrals, 5)
				o.atMost("block minutes", o.BlockMinutes, 0)
				o.atMost("recovery minutes", o.RecoveryMinutes, 30)
			},
		},
		{
			name: "A5", about: "the limit halves and comes back", duration: 90 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}, {"at": "25m", "per_s": 2}, {"at": "55m", "per_s": 4}], ` + penalty, offered: always5,
			steps: []step{{25 * time.Minute, 2}, {55 * time.Minute, 4}},
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 82)
				o.atMost("block minutes", o.BlockMinutes, 0)
			},
		},
		{
			name: "A7", about: "20 messages a connection", duration: 50 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}], "burst_s": 30, "msgs_per_conn": 20`, offered: always5, check: perConnection,
		},
		{
			name: "A7b", about: "20 messages a connection, closed without a word", duration: 50 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}], "burst_s": 30, "msgs_per_conn": 20, "silent_close": true`, offered: always5, check: perConnection,
		},
		{
			name: "A8", about: "a block of 45 minutes that hammering extends", duration: 100 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 4}], "burst_s": 30,
    "block": {"len": "30m", "extend": true, "scripted": [{"at": "25m", "len": "45m"}]},
    "texts": {"BLOCK": "451 4.7.650 The mail server [{ip}] has been temporarily rate limited due to IP reputation. (S775)"}`, offered: always5,
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 85)
				o.atMost("block minutes", o.BlockMinutes, 3)
				o.atMost("attempts a minute in the block", o.BlockedPerMinute, 2.5)
			},
		},
		{
			name: "A10", about: "greylisting of 60 %", duration: 50 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 12}], "burst_s": 30, "grey": {"frac": 0.6, "min_retry": "5m"},
    "texts": {"GREY": "451 4.7.1 Greylisted, please try again later"}`, offered: `[{"at": "0s", "v": 2}]`, // with second attempts 3.2/s
			check: func(o *outcome) {
				// What comes in the last ten minutes is still waiting for its second attempt at the end.
				o.atLeast("goodput %", o.Goodput, 97*(1-0.6*10.0/50))
				o.atMost("decreases", float64(o.Decreases), 0)
			},
		},
		{
			name: "A12", about: "a new address that may grow 1.6 times a day", duration: 3 * time.Hour,
			provider: `"rate": [{"at": "0s", "per_s": 1000}], "warmup": {"on": true, "r0": 0.2, "factor": 1.6, "day": "30m"}, ` + penalty, offered: always5,
			warmup: true, policy: "thresholds:\n  warm-up: {day: 30m, first-per-hour: 720}\n",
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 90)
				o.atMost("deferrals %", o.Deferrals, 5)
				o.atMost("block minutes", o.BlockMinutes, 0)
			},
		},
		{
			name: "A15", about: "4 a minute, mail in bursts", duration: 4 * time.Hour, rate: 4.0 / 60, provider: few, offered: bursts,
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 90)
				o.atMost("deferrals %", o.Deferrals, 6)
			},
		},
		{
			name: "A15b", about: "the same, configured for four times as much", duration: 4 * time.Hour, rate: 16.0 / 60, provider: few, offered: bursts,
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 75)
				o.atMost("deferrals %", o.Deferrals, 6)
			},
		},
		{
			name: "A17", about: "ClickHouse away for 20 minutes, then the controller", duration: 110 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 2}], ` + penalty, offered: always5,
			acts: []act{
				{at: 25 * time.Minute, kind: stopClickHouse, len: 20 * time.Minute},
				{at: 70 * time.Minute, kind: stopAnalytics, len: 20 * time.Minute},
			},
			check: func(o *outcome) {
				o.atLeast("goodput %", o.Goodput, 74)
				o.atMost("block minutes", o.BlockMinutes, 0)
				o.atMost("silent minutes in a row", o.SilentMinutes, 2)
				o.atMost("age of a lease in force, minutes", o.LeaseAgeMinutes, 10.5)
				o.atLeast("attempts under a glide", float64(o.Glides), 1)
			},
		},
		{
			name: "A19", about: "a pin, its end, and the ceiling", duration: 60 * time.Minute,
			provider: `"rate": [{"at": "0s", "per_s": 8}], "burst_s": 30`, offered: always5,
			acts: []act{
				{at: 15 * time.Minute, kind: operator, args: []string{"pin", key, "--rate", "1.2/s", "--for", "15m", "--reason", "pinned by the trial"}},
			},
			check: func(o *outcome) {
				o.between("pinned rate, messages a second", o.pinned(20, 29), 0.95, 1.3)
				o.between("rate after the pin's end", o.pinned(45, 60), 0.85*staticRate, 1.05*staticRate)
				o.atMost("largest lease, messages a second", o.LargestLease, staticRate)
			},
		},
	}
}

// perConnection is what a trial has to show whose receiver ends a connection at a number of messages.
func perConnection(o *outcome) {
	o.atLeast("goodput %", o.Goodput, 88)
	o.atMost("deferrals %", o.Deferrals, 3)
}
