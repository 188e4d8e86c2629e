package loop

import (
	"time"

	"carom/analytics/control"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/limits"
)

// Setup is what stands around a scenario: how the nodes are configured, and how late the loop is.
type Setup struct {
	// Static is configured, Adaptive the ceiling above it with 0 for none; over all nodes, and
	// every node has an equal part. With OwnSources each node has an address of its own.
	Static     limits.Limit
	Adaptive   limits.Limit
	OwnSources bool
	// Retry holds the intervals after a message was put off; the last one counts for all later.
	Retry []time.Duration
	// Period is how often the loop runs, Delay the time from an event to its effect; the loop sees
	// what is Delay-Period old.
	Period time.Duration
	Delay  time.Duration
	// Drain is how long the run goes on after the load ended.
	Drain  time.Duration
	Policy control.Policy
	// Special holds what some tenants are answered, by tenant.
	Special map[string]Special
	// Scheduler says that an outside scheduler runs the job: each tenth run comes twice, each
	// twentieth is killed.
	Scheduler bool
	// Warmup says that the sources are new and warmed up from the start.
	Warmup bool
	Pins   []TimedPin
}

// TimedPin is an operator's pin from a time on.
type TimedPin struct {
	From time.Duration
	control.Pin
}

func (s *Setup) pin(now time.Duration) *control.Pin {
	for i := range s.Pins {
		if p := &s.Pins[i]; p.From <= now && now < p.Until {
			return &p.Pin
		}
	}
	return nil
}

// Want is what a case must reach: goodput and changes in percent, the mean over the seeds; minutes
// of block the most of any seed. A zero is not checked, but for Blocked.
type Want struct {
	Goodput     float64 `json:"goodput_at_least,omitempty"`
	Deferrals   float64 `json:"deferrals_at_most,omitempty"`
	Blocked     float64 `json:"block_minutes_at_most"`
	Recovery    float64 `json:"recovery_min_at_most,omitempty"`
	BlockedRate float64 `json:"blocked_attempts_per_min_at_most,omitempty"`
	GoodputMost float64 `json:"goodput_at_most,omitempty"`
	Others      float64 `json:"others_at_least,omitempty"`
	NoDecrease  bool    `json:"no_decrease,omitempty"`
	// Static bounds the goodput of the configuration without a loop.
	Static float64 `json:"static_at_most,omitempty"`
}

// Case is one row of the table.
type Case struct {
	Name     string // A1 … after design/control.md section 8
	About    string
	Scenario *scenarios.Scenario
	Setup    Setup
	Want     Want
	// Apart says that the case is judged by itself and does not count in the means: what it
	// measures is not how much goes out.
	Apart bool
}

// The largest adaptive ceilings that are accepted without a warning (design/control.md 4.6).
const (
	ceilingFactor      = 20
	ceilingConnections = 64
	ceilingMessages    = 100
)

// configure returns the setup of nodes that are configured for a rate, with open ceilings.
func configure(rate float64) Setup {
	return Setup{
		Static:   limits.Static(rate, 40, 100),
		Adaptive: limits.Limit{RatePerSecond: ceilingFactor * rate, Connections: ceilingConnections, MessagesPerConnection: ceilingMessages},
		Retry:    []time.Duration{5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute},
		Period:   15 * time.Second, Delay: time.Minute,
		Policy: control.Default(),
	}
}

// receiver returns a provider with a hidden limit of so many a second, and the steps behind it as
// minute and rate in turn.
func receiver(rate float64, steps ...float64) scenarios.Provider {
	p := scenarios.Provider{
		Name: "gmailish", Domains: []string{"gm.test"}, MX: []string{"mx1.gm.test"},
		Rate: []scenarios.RateStep{{At: 0, PerSecond: rate}}, BurstSeconds: 30, Conc: []scenarios.ConcStep{{N: 80}},
		LatencyMS: [2]float64{240, 560}, UnknownUsers: 0.01,
		Texts: map[string]string{
			"RATE":  "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address [{ip}].\n421 4.7.28 To protect our users from spam, mail has been temporarily rate limited.",
			"BLOCK": "451 4.7.650 The mail server [{ip}] has been temporarily rate limited due to IP reputation. (S775)",
		},
	}
	for i := 0; i+1 < len(steps); i += 2 {
		p.Rate = append(p.Rate, scenarios.RateStep{At: minutes(steps[i]), PerSecond: steps[i+1]})
	}
	return p
}

func minutes(m float64) scenarios.Duration {
	return scenarios.Duration(m * float64(time.Minute))
}

// punishing makes a provider lower its limit for who does not obey it.
func punishing(p scenarios.Provider) scenarios.Provider {
	p.Penalty = scenarios.Penalty{On: true, RefusedFrac: 0.2, DownPerMinute: 0.25, UpPerMinute: 0.05, Floor: 0.1}
	return p
}

// blocking makes a provider block who hammers.
func blocking(p scenarios.Provider) scenarios.Provider {
	p.Block.On, p.Block.TriggerFrac, p.Block.Extend = true, 0.6, true
	p.Block.Window, p.Block.Len = minutes(15), minutes(30)
	return p
}

// scene puts load on a provider: per second, with steps as minute and rate in turn.
func scene(length time.Duration, p scenarios.Provider, perSecond float64, steps ...float64) *scenarios.Scenario {
	load := scenarios.Load{Tenant: "a", Domains: map[string]float64{p.Domains[0]: 1}, PerS: []scenarios.LoadStep{{V: perSecond}}}
	for i := 0; i+1 < len(steps); i += 2 {
		load.PerS = append(load.PerS, scenarios.LoadStep{At: minutes(steps[i]), V: steps[i+1]})
	}
	return &scenarios.Scenario{
		Version: 1, Seed: 7, Scale: 20, Duration: scenarios.Duration(length),
		Providers: []scenarios.Provider{p}, Load: []scenarios.Load{load}, Nodes: scenarios.Nodes{Weights: []float64{1, 1, 1, 1}},
	}
}

// Public returns the published cases: those of the table that make sense in virtual time, and the
// bad days. The load is a fifth more than what is accepted where nothing else is said.
func Public() []Case {
	const hours = time.Hour
	cases := []Case{
		{
			Name: "A1", About: "steady 10/s, configured rightly",
			Scenario: scene(4*hours, receiver(10), 12), Setup: configure(10),
			Want: Want{Goodput: 94, Deferrals: 3},
		},
		{
			Name: "A2", About: "configured four times too high, punishing",
			Scenario: scene(4*hours, punishing(receiver(10)), 12), Setup: configure(40),
			Want: Want{Goodput: 88, Deferrals: 5},
		},
		{
			Name: "A2b", About: "configured four times too low",
			Scenario: scene(4*hours, receiver(10), 12), Setup: configure(2.5),
			Want: Want{Goodput: 85, Deferrals: 4},
		},
		{
			Name: "A3", About: "10 to 2.5/s after 90 minutes, punishing and blocking",
			Scenario: scene(4*hours, blocking(punishing(receiver(10, 90, 2.5))), 12), Setup: configure(10),
			Want: Want{Goodput: 85, Deferrals: 5, Recovery: 30},
		},
		{
			Name: "A4", About: "10 to 2.5/s after 90 minutes",
			Scenario: scene(4*hours, receiver(10, 90, 2.5), 12), Setup: configure(10),
			Want: Want{Goodput: 88, Deferrals: 5, Recovery: 30},
		},
		{
			Name: "A5", About: "10 to 5 to 10/s",
			Scenario: scene(4*hours, punishing(receiver(10, 80, 5, 160, 10)), 12), Setup: configure(10),
			Want: Want{Goodput: 82, Deferrals: 5},
		},
		{
			Name: "A5b", About: "10 to 40/s, a limit that rises",
			Scenario: scene(4*hours, receiver(10, 90, 40), 44), Setup: configure(10),
			Want: Want{Goodput: 82, Deferrals: 5},
		},
	}
	few := receiver(40)
	few.Conc = []scenarios.ConcStep{{N: 40}, {At: minutes(60), N: 8}}
	few.LatencyMS = [2]float64{400, 800}
	cases = append(cases, Case{
		Name: "A6", About: "40 connections, then 8: they bind",
		Scenario: scene(4*hours, few, 12), Setup: configure(40),
		Want: Want{Goodput: 85, Deferrals: 3},
	})
	for _, silent := range []bool{false, true} {
		p := receiver(10)
		p.MsgsPerConn, p.SilentClose = 20, silent
		c := Case{
			Name: "A7", About: "20 messages a connection", Scenario: scene(3*hours, p, 12), Setup: configure(10),
			Want: Want{Goodput: 88, Deferrals: 3},
		}
		if silent {
			c.Name, c.About = "A7b", "20 messages a connection, closed without a word"
		}
		cases = append(cases, c)
	}
	blocked := blocking(receiver(10))
	blocked.Block.Scripted = []scenarios.ScriptedBlock{{At: minutes(60), Len: minutes(45)}}
	cases = append(cases, Case{
		Name: "A8", About: "blocked for 45 minutes, longer for who hammers",
		Scenario: scene(4*hours, blocked, 12), Setup: configure(10),
		Want: Want{Goodput: 85, Blocked: 3, BlockedRate: 2.5},
	})
	reputation := blocking(receiver(10))
	reputation.Texts["BLOCK"] = "550 5.7.1 Service unavailable; client host [{ip}] blocked using a reputation list"
	reputation.Block.Scripted = []scenarios.ScriptedBlock{{At: minutes(60), Len: minutes(90)}}
	forever := blocking(receiver(10))
	forever.Texts["BLOCK"] = "421 4.7.1 [TS03] All messages from {ip} will be permanently deferred; Retrying will NOT succeed."
	forever.Block.Scripted = []scenarios.ScriptedBlock{{At: minutes(60), Len: minutes(45)}}
	cases = append(cases, Case{
		Name: "A8b", About: "blocked for 90 minutes with 550, longer for who hammers",
		Scenario: scene(5*hours, reputation, 12), Setup: configure(10),
		Want: Want{Goodput: 85, Blocked: 3, BlockedRate: 2.5},
	}, Case{
		Name: "A8c", About: "blocked for 45 minutes by what says that it will not pass (TS03)",
		Scenario: scene(4*hours, forever, 12), Setup: configure(10),
		Want: Want{Goodput: 75, Blocked: 3, BlockedRate: 1},
	})
	for i, kind := range scenarios.OutageKinds {
		p := receiver(10)
		p.Outage = []scenarios.Outage{{At: minutes(60), Len: minutes(20), Kind: kind}}
		cases = append(cases, Case{
			Name: "A9" + string(rune('a'+i)), About: "out for 20 minutes: " + string(kind),
			Scenario: scene(3*hours, p, 12), Setup: configure(10), Want: Want{Goodput: 88, Deferrals: 4},
		})
	}
	for _, ambiguous := range []bool{false, true} {
		p := receiver(10)
		p.Grey, p.Ambiguous = scenarios.Grey{Frac: 0.6, MinRetry: minutes(4)}, ambiguous
		c := Case{
			Name: "A10", About: "greylisting of 60 %", Scenario: scene(6*hours, p, 6), Setup: configure(10),
			Want: Want{Goodput: 97, NoDecrease: true},
		}
		if ambiguous {
			c.Name, c.About, c.Want = "A10b", "greylisting of 60 % that does not say so", Want{Goodput: 80}
		}
		cases = append(cases, c)
	}
	daily := receiver(10)
	daily.Diurnal = scenarios.Diurnal{Amp: 0.5, Period: minutes(12 * 60)}
	cases = append(cases, Case{
		Name: "A11", About: "a limit that swings by half in half a day",
		Scenario: scene(12*hours, daily, 12), Setup: configure(10), Want: Want{Goodput: 88, Deferrals: 5},
	})
	for _, warm := range []bool{false, true} {
		p := blocking(punishing(receiver(1000)))
		p.Warmup = scenarios.Warmup{On: true, R0: 0.5, Factor: 1.6, Day: minutes(30)}
		s := configure(10)
		c := Case{
			Name: "A12", About: "a new address that may grow 1.6 times a day, no warm-up set up",
			Scenario: scene(4*hours, p, 12), Want: Want{Goodput: 70, Blocked: 60}, Apart: true,
		}
		if warm {
			c.Name, c.About, c.Want = "A12b", "a new address that may grow 1.6 times a day, warmed up", Want{Goodput: 90, Deferrals: 5, Static: 10}
			c.Apart = false
			s.Warmup = true
			s.Policy.Warmup.Day, s.Policy.Warmup.FirstPerHour = 30*time.Minute, 0.5*3600
		}
		c.Setup = s
		cases = append(cases, c)
	}
	for _, config := range []float64{1, 4} {
		p := receiver(4.0 / 60)
		p.BurstSeconds = 60
		c := Case{
			Name: "A15", About: "4 a minute, mail in bursts", Scenario: scene(8*hours, p, 0.2, 20, 0, 60, 0.2, 80, 0, 120, 0.2, 140, 0, 180, 0.2, 200, 0, 240, 0.2, 260, 0, 300, 0.2, 320, 0, 360, 0.2, 380, 0, 420, 0.2, 440, 0),
			Setup: configure(config * 4 / 60), Want: Want{Goodput: 90, Deferrals: 6},
		}
		if config > 1 {
			c.Name, c.About, c.Want = "A15b", "4 a minute, mail in bursts, configured for four times as much", Want{Goodput: 75, Deferrals: 6}
		}
		cases = append(cases, c)
	}
	return append(cases, faults()...)
}

// faults are the cases in which something of carom breaks, or an operator interferes.
func faults() []Case {
	const hours = time.Hour
	broken := func(kind string, length time.Duration) *scenarios.Scenario {
		s := scene(4*hours, blocking(punishing(receiver(10, 100, 5))), 12)
		s.Faults = []scenarios.Fault{{At: minutes(95), Kind: kind, Len: scenarios.Duration(length)}}
		return s
	}
	cases := make([]Case, 0, 16)
	cases = append(cases, []Case{
		{
			Name: "A17", About: "ClickHouse stopped for 20 minutes while the limit halves",
			Scenario: broken("clickhouse_stop", 20*time.Minute), Setup: configure(10), Want: Want{Goodput: 75, Deferrals: 10},
		},
		{
			Name: "A17b", About: "analytics stopped for two hours while the limit halves",
			Scenario: broken("analytics_stop", 2*hours), Setup: configure(10), Want: Want{Goodput: 70, Deferrals: 15},
		},
	}...)
	four := scene(4*hours, receiver(4), 19.2)
	four.Faults = []scenarios.Fault{{At: minutes(60), Kind: "analytics_stop", Len: minutes(120)}}
	own := configure(16)
	own.OwnSources = true
	cases = append(cases, Case{
		Name: "A17c", About: "four nodes with an address each, analytics dead for two hours",
		Scenario: four, Setup: own, Want: Want{Goodput: 94, Deferrals: 3},
	})
	uneven := scene(3*hours, receiver(10), 12)
	uneven.Nodes.Weights = []float64{8, 1, 1, 0}
	cases = append(cases, Case{
		Name: "A18", About: "four nodes of which one has most of the mail",
		Scenario: uneven, Setup: configure(10), Want: Want{Goodput: 90, Deferrals: 4},
	})
	pinned := configure(10)
	rate, ceiling := 3.0, 6.0
	pinned.Pins = []TimedPin{
		{30 * time.Minute, control.Pin{Rate: &rate, By: "operator", Reason: "a quiet hour", Until: 90 * time.Minute}},
		{2 * hours, control.Pin{Ceiling: &ceiling, By: "operator", Reason: "not more than this", Until: 3 * hours}},
	}
	cases = append(cases, Case{
		Name: "A19", About: "pinned at 3/s for an hour, later at most 6/s for an hour",
		Scenario: scene(4*hours, receiver(10), 12), Setup: pinned, Want: Want{Goodput: 60}, Apart: true,
	})
	bought := receiver(10)
	bought.UnknownUsers = 0.3
	cases = append(cases, Case{
		Name: "B1", About: "a purchased list, 30 % unknown users: never faster than configured",
		Scenario: scene(3*hours, bought, 30), Setup: configure(5), Want: Want{Goodput: 45, GoodputMost: 51}, Apart: true,
	})
	angry := receiver(10)
	angry.Outage = []scenarios.Outage{{At: minutes(30), Len: minutes(150), Kind: scenarios.Outage421}}
	cases = append(cases, Case{
		Name: "B2", About: "everything answered 421 for two and a half hours",
		Scenario: scene(5*hours, angry, 12), Setup: configure(10), Want: Want{Goodput: 85, Deferrals: 5},
	})
	scheduled := configure(10)
	scheduled.Scheduler, scheduled.Period, scheduled.Delay = true, time.Minute, 105*time.Second
	cases = append(cases, Case{
		Name: "B3", About: "run by a scheduler each minute, some runs doubled or killed, while the limit halves",
		Scenario: scene(4*hours, blocking(punishing(receiver(10, 100, 5))), 12), Setup: scheduled, Want: Want{Goodput: 94, Deferrals: 6},
	})
	for _, c := range []struct {
		name, about string
		tenants     int
		special     Special
	}{
		{"B4", "one tenant of ten refused for its content", 10, Special{Reply: "550 5.7.1 Message rejected as spam by content scanning"}},
		{"B5", "a shared address, the DKIM domain of one of three tenants limited to 0.3/s", 3, Special{
			Reply:     "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your DKIM domain [shop.example 36].\n421 4.7.28 To protect our users from spam, mail sent from your domain has been temporarily rate limited.",
			PerSecond: 0.3,
		}},
	} {
		s := scene(3*hours, receiver(10), 9/float64(c.tenants))
		for i := 1; i < c.tenants; i++ {
			other := s.Load[0]
			other.Tenant = string(rune('a' + i))
			s.Load = append(s.Load, other)
		}
		setup := configure(10)
		setup.Special = map[string]Special{"a": c.special}
		cases = append(cases, Case{Name: c.name, About: c.about, Scenario: s, Setup: setup, Want: Want{Others: 98}, Apart: true})
	}
	return cases
}

// closed returns the setup with the configured values as hard ceilings.
func (s Setup) closed() Setup {
	s.Adaptive = limits.Limit{}
	return s
}
