package loop

import (
	"runtime"
	"sync"
	"time"
)

// Method is a way to set limits that is compared.
type Method struct {
	Name  string
	About string
	make  func() sender
	setup func(Setup) Setup // nil: as it is
}

const (
	loopName   = "loop"
	closedName = "closed"
	staticName = "static"
)

// Methods returns the loop, and what it is compared with. The parameters of the baselines are usual ones,
// chosen by hand and not by a search (deploy/docs/loop.md).
func Methods() []Method {
	return []Method{
		{Name: loopName, About: "carom's loop, adaptive ceilings open", make: func() sender { return &loopSender{} }},
		{Name: closedName, About: "the same, never above the configuration", make: func() sender { return &loopSender{} }, setup: Setup.closed},
		{Name: staticName, About: "the configuration alone", make: func() sender { return static{} }},
		{Name: "backoff", About: "PowerMTA's backoff mode", make: func() sender { return backoff{share: 0.5, after: 5 * time.Minute} }},
		{Name: "automation", About: "traffic shaping automation", make: func() sender {
			return automation{threshold: 10, share: 0.5, length: 10 * time.Minute, suspend: 5 * time.Minute}
		}},
		{Name: "aimd", About: "additive increase, multiplicative decrease", make: func() sender {
			return aimd{perMinute: 0.02, factor: 0.7, every: 10 * time.Second}
		}},
	}
}

// Run is one simulation.
type Run struct {
	Case   string `json:"case"`
	Method string `json:"method"`
	Seed   uint64 `json:"seed"`
	Measures
	worlds []*world
}

// simulate runs one case. Over several providers the counts add up.
func simulate(c *Case, m *Method, seed uint64) Run {
	setup := c.Setup
	if m.setup != nil {
		setup = m.setup(setup)
	}
	r := Run{Case: c.Name, Method: m.Name, Seed: seed}
	for i := range c.Scenario.Providers {
		w := run(c.Scenario, i, &setup, seed, m.make())
		one := w.measure()
		r.worlds = append(r.worlds, w)
		if i == 0 {
			r.Measures = one
			continue
		}
		r.join(one)
	}
	return r
}

// join adds what another provider of the same run measured.
func (m *Measures) join(o Measures) {
	weigh := func(a, wa, b, wb float64) float64 { return (a*wa + b*wb) / max(1, wa+wb) }
	m.Deferrals = weigh(m.Deferrals, float64(m.Attempts), o.Deferrals, float64(o.Attempts))
	m.Explained = weigh(m.Explained, float64(m.Changes), o.Explained, float64(o.Changes))
	m.Accepted += o.Accepted
	m.Attempts += o.Attempts
	m.Oracle += o.Oracle
	m.Changes += o.Changes
	m.Decreases += o.Decreases
	m.Goodput = 100 * float64(m.Accepted) / max(1, m.Oracle)
	m.Blocked += o.Blocked
	m.Recovery = max(m.Recovery, o.Recovery)
	m.Delay95 = max(m.Delay95, o.Delay95)
	m.LeaseSum, m.LeaseAge = max(m.LeaseSum, o.LeaseSum), max(m.LeaseAge, o.LeaseAge)
	m.PerHour, m.BlockedRate = max(m.PerHour, o.PerHour), max(m.BlockedRate, o.BlockedRate)
}

// work is one thing to simulate.
type work struct {
	c    *Case
	m    *Method
	seed uint64
}

// simulateAll runs all of jobs on all cores and hands each result to done, in the order of jobs. It stops
// early when stop is closed.
func simulateAll(jobs []work, stop <-chan struct{}, done func(int, Run)) {
	results := make([]chan Run, len(jobs))
	for i := range results {
		results[i] = make(chan Run, 1)
	}
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				results[i] <- simulate(jobs[i].c, jobs[i].m, jobs[i].seed)
			}
		})
	}
	workers.Go(func() {
		defer close(next)
		for i := range jobs {
			select {
			case next <- i:
			case <-stop:
				return
			}
		}
	})
	for i := range jobs {
		select {
		case r := <-results[i]:
			done(i, r)
		case <-stop:
			workers.Wait()
			return
		}
	}
	workers.Wait()
}
