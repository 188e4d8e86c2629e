package throttle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestNoLimitIsExceededTogether: several queues of two virtual MTAs in one pool, each from two
// addresses, with messages of any size, impatience, restarts of sessions and modes that change: no
// window of any limit holds more than it may.
func TestNoLimitIsExceededTogether(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		draw := func(what string) Rate {
			if rapid.Bool().Draw(r, what+" unlimited") {
				return Rate{}
			}
			return Rate{
				rapid.OneOf(rapid.Int64Range(1, 30), rapid.Int64Range(30, 500)).Draw(r, what),
				rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute}).Draw(r, what+" per"),
			}
		}
		pool := &PoolLimits{Name: "p", Rate: draw("pool")}
		vmtas := []*VMTALimits{
			{Rate: draw("vmta 0"), Pools: []*PoolLimits{pool}}, {Rate: draw("vmta 1"), Pools: []*PoolLimits{pool}},
		}
		queues := make([]*QueueLimits, 3)
		for i := range queues {
			queues[i] = &QueueLimits{Rate: draw(fmt.Sprint("queue ", i)), SourceIP: []SourceIPLimits{{Rate: draw(fmt.Sprint("source ", i))}}}
		}
		largest := rapid.SampledFrom([]int{1, 3, 20}).Draw(r, "largest message")
		seed := rapid.Uint64().Draw(r, "seed")
		synctest.Test(t, func(t *testing.T) {
			th := New(0)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			start := time.Now()
			var mu sync.Mutex
			all := map[string][]passed{}
			limit := map[string]Rate{}
			var wg sync.WaitGroup
			for worker := range 12 {
				q, v, s := worker%3, worker/3%2, worker/6
				p := Path{
					Queue: fmt.Sprint("q", q, "/v", v), VMTA: fmt.Sprint("v", v), Key: key, Queued: queues[q], VMTALimits: vmtas[v],
					Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(s)}),
				}
				names := map[string]Rate{
					"pool": pool.Rate, p.VMTA: vmtas[v].Rate, p.Queue: queues[q].Rate,
					fmt.Sprint(p.Queue, " from ", p.Source): queues[q].SourceIP[0].Rate,
				}
				random := rand.New(rand.NewPCG(seed, uint64(worker)))
				wg.Go(func() {
					for ctx.Err() == nil {
						n := 1 + random.IntN(largest)
						_, denial, err := th.Acquire(ctx, p, n, time.Duration(random.Int64N(int64(5*time.Second))))
						switch {
						case errors.Is(err, ErrLater) && denial.Wait <= 0:
							t.Errorf("come back at once: %+v", denial)
							return
						case errors.Is(err, ErrLater):
							wait, stop := context.WithTimeout(ctx, denial.Wait)
							<-wait.Done()
							stop()
							continue
						case err != nil:
							return
						}
						at := time.Since(start)
						mu.Lock()
						for name, rate := range names {
							if limit[name] = rate; !rate.Unlimited() {
								all[name] = append(all[name], passed{at, n})
							}
						}
						mu.Unlock()
						wait, stop := context.WithTimeout(ctx, time.Duration(random.IntN(3))*50*time.Millisecond+time.Millisecond)
						<-wait.Done()
						stop()
					}
				})
			}
			wg.Wait()
			for name, rate := range limit {
				if !rate.Unlimited() {
					checkWindows(t, name, rate, all[name])
				}
			}
			for name, q := range th.queues {
				for what, m := range map[string]*meter{"messages": q.messages, "data": q.data} {
					if m != nil && (m.first != nil || m.ahead != 0) {
						t.Errorf("somebody is left in the line of %s, %s", name, what)
					}
				}
			}
			if g := th.pools["p"]; g.messages.first != nil || th.keys[key].waiting != 0 || th.keys[key].first != nil {
				t.Error("somebody is left in line")
			}
		})
	})
}
