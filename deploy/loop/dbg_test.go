package loop

import (
	"fmt"
	"testing"
	"time"
)

type dbg struct{ loopSender }

func (d *dbg) tick(w *world) {
	d.loopSender.tick(w)
	if w.now%(2*time.Minute) == 0 && w.now < 60*time.Minute {
		s := fmt.Sprint(w.now)
		for _, n := range w.nodes {
			s += fmt.Sprintf(" [L %.3f f %.3f tok %.2f bl %d fresh %d ret %d]", n.limit.RatePerSecond, n.guard.Factor(w.now), n.tokens, n.backlog, len(n.fresh), len(n.retries))
		}
		fmt.Println(s)
	}
}

func TestDbg(t *testing.T) {
	for _, c := range Public() {
		if c.Name == "A10b" {
			run(c.Scenario, 0, &c.Setup, 1, &dbg{})
		}
	}
}
