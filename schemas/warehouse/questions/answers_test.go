package questions_test

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

// What follows computes the answers in Go, from the events and from what the fixture knows of them,
// by the words of the rates' definitions and not by the SQL of the views.

// approx is a number that a query rounds.
type approx struct{ want, within float64 }

// between is a quantile: the state may be off by some of the values around it.
type between struct{ low, high float64 }

// about is a quantile of values that are all the same.
func about(value float64) between { return between{value * 0.95, value * 1.05} }

// share returns n of d as the queries round it, nil where there is nothing to divide by.
func share(n, d int) any {
	if d == 0 {
		return nil
	}
	return approx{float64(n) / float64(d), 6e-5}
}

// tally counts what became of recipients.
type tally struct {
	accepted, delivered, hard, soft, expired, suppressed, refused, removed int
	attempts, deferred, first, deliveredFirst, deferredRecipients          int
	queueFailures, blocked, octets                                         int
}

func (c *tally) finished() int { return c.delivered + c.hard + c.soft }

func (c *tally) left() int { return c.accepted - c.finished() - c.suppressed - c.removed }

func (c *tally) deliveryRate() any      { return share(c.delivered, c.finished()) }
func (c *tally) hardRate() any          { return share(c.hard, c.finished()) }
func (c *tally) softRate() any          { return share(c.soft, c.finished()) }
func (c *tally) firstRate() any         { return share(c.deliveredFirst, c.first) }
func (c *tally) attemptDeferral() any   { return share(c.deferred, c.attempts) }
func (c *tally) recipientDeferral() any { return share(c.deferredRecipients, c.first) }

// add counts an event.
func (w *world) add(c *tally, e *event.Event) {
	switch e.Kind {
	case event.Received:
		if e.Tenant != "reports" {
			c.accepted++
		}
	case event.Delivered:
		c.delivered++
		c.octets += int(e.Size) //nolint:gosec // small
	case event.Bounced:
		if e.Class == taxonomy.Hard {
			c.hard++
		} else {
			c.soft++
		}
	case event.Expired:
		c.soft++
		c.expired++
	case event.Suppressed:
		c.suppressed++
	case event.Rejected:
		c.refused++
	case event.Deleted:
		c.removed++
	case event.QueueDeferred:
		c.queueFailures++
	case event.Deferred:
		c.deferred++
	default:
	}
	if !attempted(e) {
		return
	}
	c.attempts++
	if e.Dimension == taxonomy.Block {
		c.blocked++
	}
	if w.firstAttempt[recipientOf(e)] != e {
		return
	}
	c.first++
	switch e.Kind {
	case event.Delivered:
		c.deliveredFirst++
	case event.Deferred:
		c.deferredRecipients++
	default:
	}
}

// count counts the events of a span by a key; keys that it does not want are false.
func count[K comparable](w *world, from, to time.Time, key func(*event.Event) (K, bool)) map[K]*tally {
	all := map[K]*tally{}
	w.each(from, to, func(e *event.Event) {
		k, ok := key(e)
		if !ok {
			return
		}
		if all[k] == nil {
			all[k] = &tally{}
		}
		w.add(all[k], e)
	})
	return all
}

func (w *world) each(from, to time.Time, do func(*event.Event)) {
	for i := range w.events {
		if e := &w.events[i]; !e.Time.Before(from) && e.Time.Before(to) {
			do(e)
		}
	}
}

// rows makes a row of each key, but for those that are nil.
func rows[K comparable, V any](all map[K]V, row func(K, V) []any) [][]any {
	var list [][]any
	for k, v := range all {
		if r := row(k, v); r != nil {
			list = append(list, r)
		}
	}
	return list
}

// by sorts rows by columns that count from 1; a negative one sorts downwards, and nil comes last.
func by(list [][]any, columns ...int) [][]any {
	slices.SortFunc(list, func(x, y []any) int {
		for _, c := range columns {
			i := max(c, -c) - 1
			order := compare(x[i], y[i])
			if c < 0 && x[i] != nil && y[i] != nil {
				order = -order
			}
			if order != 0 {
				return order
			}
		}
		return 0
	})
	return list
}

func compare(x, y any) int {
	switch {
	case x == nil || y == nil:
		return cmp.Compare(b2i(x == nil), b2i(y == nil))
	default:
	}
	switch x := x.(type) {
	case string:
		return cmp.Compare(x, y.(string))
	case int:
		return cmp.Compare(x, y.(int))
	case time.Time:
		return x.Compare(y.(time.Time))
	case approx:
		return cmp.Compare(x.want, y.(approx).want)
	default:
		return 0
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(day) }

// mondayOf returns the Monday of a day.
func mondayOf(t time.Time) time.Time {
	return dayOf(t).AddDate(0, 0, -(int(t.Weekday())+6)%7)
}

func byProvider(e *event.Event) (string, bool) { return e.Provider, true }
func bySource(e *event.Event) (string, bool)   { return e.Source, e.Source != "" }
func byTenant(e *event.Event) (string, bool)   { return e.Tenant, true }
func byDay(e *event.Event) (time.Time, bool)   { return dayOf(e.Time), true }

type pair [2]string

type jobKey struct{ job, tenant string }

// byJob is for the whole history: the reports and the failures of queues have no job.
func byJob(e *event.Event) (jobKey, bool) { return jobKey{e.Job, e.Tenant}, e.Job != "" }

// lastDays returns the first and the last day of each job.
func (w *world) lastDays() map[jobKey]time.Time {
	last := map[jobKey]time.Time{}
	w.each(monday, end, func(e *event.Event) {
		if k := (jobKey{e.Job, e.Tenant}); e.Job != "" {
			last[k] = dayOf(e.Time)
		}
	})
	return last
}

// counted returns the reports that count: proven ones, the first of each kind about a recipient.
func (w *world) counted() []report {
	type key struct {
		kind event.Kind
		r    recipient
	}
	first := map[key]report{}
	for _, r := range w.reports {
		if !r.proven {
			continue
		}
		k := key{r.kind, recipientOf(r.delivered)}
		if old, ok := first[k]; !ok || r.time.Before(old.time) {
			first[k] = r
		}
	}
	return slices.Collect(maps.Values(first))
}

// cohort counts the deliveries of some days and what came of them, by age in hours.
type cohort struct {
	delivered, complaints, bounces int
	mature, within                 map[int]int // by 24, 72 and 168 hours: delivered, complaints
	bounced, bouncedHard           int         // within 72 hours
}

func cohorts[K comparable](w *world, from, to time.Time, key func(*event.Event) K) map[K]*cohort {
	all := map[K]*cohort{}
	of := func(e *event.Event) *cohort {
		k := key(e)
		if all[k] == nil {
			all[k] = &cohort{mature: map[int]int{}, within: map[int]int{}}
		}
		return all[k]
	}
	aged := func(e *event.Event, hours int) bool {
		return !dayOf(e.Time).Add(day + time.Duration(hours)*time.Hour).After(end)
	}
	w.each(from, to, func(e *event.Event) {
		if e.Kind != event.Delivered {
			return
		}
		c := of(e)
		c.delivered++
		for _, hours := range []int{24, 72, 168} {
			if aged(e, hours) {
				c.mature[hours]++
			}
		}
	})
	for _, r := range w.counted() {
		e := r.delivered
		if e.Time.Before(from) || !e.Time.Before(to) {
			continue
		}
		c, age := of(e), r.time.Sub(e.Time)
		if r.kind == event.RemoteBounce {
			c.bounces++
			if aged(e, 72) && age < 72*time.Hour {
				c.bounced++
				c.bouncedHard += b2i(r.class == taxonomy.Hard)
			}
			continue
		}
		c.complaints++
		for _, hours := range []int{24, 72, 168} {
			if aged(e, hours) && age < time.Duration(hours)*time.Hour {
				c.within[hours]++
			}
		}
	}
	return all
}

// quantile returns what a digest of seconds may answer for q.
func quantile(seconds []float64, q float64) between {
	at := func(q float64) float64 {
		i := int(math.Round(q * float64(len(seconds)-1)))
		return seconds[min(max(i, 0), len(seconds)-1)]
	}
	return between{at(q-0.02)*0.95 - 0.002, at(q+0.02)*1.05 + 0.002} // values are rounded to eighths of an octave
}

// deliveriesBy returns the deliveries of the week.
func deliveriesBy(w *world, from, to time.Time, key func(*event.Event) string) map[string][]*event.Event {
	all := map[string][]*event.Event{}
	w.each(from, to, func(e *event.Event) {
		if e.Kind == event.Delivered {
			all[key(e)] = append(all[key(e)], e)
		}
	})
	return all
}

func providerOf(e *event.Event) string { return e.Provider }

// orZero returns a tally that counts nothing for none.
func orZero(c *tally) *tally {
	if c == nil {
		return &tally{}
	}
	return c
}

// answers has the expected answer of each question, by its id.
var answers = map[string]func(w *world) [][]any{
	"delivery-by-provider": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, byProvider), func(p string, c *tally) []any {
			if c.finished() == 0 {
				return nil
			}
			return []any{p, c.delivered, c.deliveryRate(), c.firstRate(), c.recipientDeferral(), c.hardRate(), c.softRate()}
		}), -2, 1)
	},
	"rates-by-day": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, byDay), func(d time.Time, c *tally) []any {
			return []any{d, c.delivered, c.deliveryRate(), c.hardRate(), c.softRate(), c.firstRate(), c.attemptDeferral(), c.recipientDeferral()}
		}), 1)
	},
	"answers-by-hour": func(w *world) [][]any {
		type key struct {
			hour     time.Time
			provider string
		}
		all := count(w, week.From, week.To, func(e *event.Event) (key, bool) {
			return key{e.Time.Truncate(time.Hour), e.Provider}, e.Provider != ""
		})
		return by(rows(all, func(k key, c *tally) []any {
			if c.attempts+c.queueFailures == 0 {
				return nil
			}
			return []any{k.hour, k.provider, c.attempts, c.deferred, c.attemptDeferral(), c.queueFailures}
		}), 1, 2)
	},
	"week-over-week-by-provider": func(w *world) [][]any {
		before := count(w, monday, week.From, byProvider)
		return by(rows(count(w, week.From, week.To, byProvider), func(p string, c *tally) []any {
			b := orZero(before[p])
			if c.finished()+b.finished() == 0 {
				return nil
			}
			return []any{p, c.delivered, b.delivered, c.deliveryRate(), b.deliveryRate(), c.recipientDeferral(), b.recipientDeferral()}
		}), -2, 1)
	},
	"week-over-week-by-ip": func(w *world) [][]any {
		before := count(w, monday, week.From, bySource)
		return by(rows(count(w, week.From, week.To, bySource), func(s string, c *tally) []any {
			b := orZero(before[s])
			return []any{s, c.delivered, b.delivered, c.deliveryRate(), b.deliveryRate(), c.blocked, b.blocked}
		}), 1)
	},
	"jobs-done-and-left": func(w *world) [][]any {
		complaints := cohorts(w, monday, end, func(e *event.Event) jobKey { return jobKey{e.Job, e.Tenant} })
		last := w.lastDays()
		return by(rows(count(w, monday, end, byJob), func(k jobKey, c *tally) []any {
			if last[k].Before(week.From) {
				return nil
			}
			complained := 0
			if of := complaints[k]; of != nil {
				complained = of.complaints
			}
			return []any{k.job, k.tenant, c.accepted, c.delivered, c.left(), share(c.accepted-c.left(), c.accepted), c.deliveryRate(), complained}
		}), -5, 1, 2)
	},
	"expired-by-last-reply": func(w *world) [][]any {
		last, all := map[recipient]string{}, map[pair]int{}
		w.each(monday, end, func(e *event.Event) {
			switch e.Kind {
			case event.Deferred:
				last[recipientOf(e)] = e.ReplyTemplate
			case event.Expired:
				if !e.Time.Before(week.From) {
					all[pair{e.Provider, cmp.Or(last[recipientOf(e)], "never answered")}]++
				}
			default:
			}
		})
		return by(rows(all, func(k pair, n int) []any { return []any{k[0], k[1], n} }), -3, 1, 2)
	},
	"new-replies": func(w *world) [][]any {
		first, all := map[pair]time.Time{}, map[pair]int{}
		w.each(monday, end, func(e *event.Event) {
			if k := (pair{e.Provider, e.ReplyTemplate}); e.ReplyTemplate != "" {
				if first[k].IsZero() {
					first[k] = e.Time.Truncate(time.Second)
				}
				all[k]++
			}
		})
		return by(rows(all, func(k pair, n int) []any {
			if first[k].Before(week.From) {
				return nil
			}
			return []any{k[0], k[1], first[k], n}
		}), -4, 1, 2)
	},
	"deferred-then-delivered": func(w *world) [][]any {
		buckets := []struct {
			name  string
			under time.Duration
		}{
			{"under 1 minute", time.Minute},
			{"1 to 5 minutes", 5 * time.Minute},
			{"5 to 15 minutes", 15 * time.Minute},
			{"15 to 60 minutes", time.Hour},
			{"1 to 4 hours", 4 * time.Hour},
			{"4 to 24 hours", day},
			{"over 24 hours", math.MaxInt64},
		}
		counts, total := make([]int, len(buckets)), 0
		w.each(week.From, week.To, func(e *event.Event) {
			if e.Kind == event.Delivered && w.firstAttempt[recipientOf(e)] != e {
				i := 0
				for e.Queued >= buckets[i].under {
					i++
				}
				counts[i]++
				total++
			}
		})
		var list [][]any
		for i, n := range counts {
			if n > 0 {
				list = append(list, []any{buckets[i].name, n, share(n, total)})
			}
		}
		return list
	},
	"suppressed-by-tenant": func(w *world) [][]any {
		all := rows(count(w, week.From, week.To, byTenant), func(t string, c *tally) []any {
			if c.refused+c.suppressed == 0 {
				return nil
			}
			return []any{t, c.refused, c.suppressed, share(c.refused+c.suppressed, c.accepted+c.refused), c.refused + c.suppressed}
		})
		by(all, -5, 1)
		for i := range all {
			all[i] = all[i][:4]
		}
		return all
	},
	"tls-share": func(w *world) [][]any {
		return by(rows(deliveriesBy(w, week.From, week.To, providerOf), func(p string, list []*event.Event) []any {
			encrypted, modern := 0, 0
			for _, e := range list {
				encrypted += b2i(e.TLSVersion != "")
				modern += b2i(e.TLSVersion == "TLS 1.3")
			}
			return []any{p, len(list), share(encrypted, len(list)), share(modern, len(list))}
		}), -2, 1)
	},
	"top-movers": func(w *world) [][]any {
		key := func(e *event.Event) (pair, bool) { return pair{e.Provider, e.Source}, e.Source != "" }
		before := count(w, monday, week.From, key)
		all := rows(count(w, week.From, week.To, key), func(k pair, c *tally) []any {
			b := orZero(before[k])
			if c.finished() == 0 || b.finished() == 0 {
				return nil
			}
			won := float64(c.delivered) - float64(c.finished())*float64(b.delivered)/float64(b.finished())
			return []any{k[0], k[1], c.deliveryRate(), b.deliveryRate(), approx{won, 0.06}, approx{math.Abs(won), 0}}
		})
		by(all, -6, 1, 2)
		for i := range all {
			all[i] = all[i][:5]
		}
		return all
	},
	"delayed-by-change": func(w *world) [][]any {
		held, seconds := map[string]int{}, map[string]float64{}
		w.each(week.From, week.To, func(e *event.Event) {
			if attempted(e) && e.LimitingScope == "loop" {
				held[e.LimitReason]++
				seconds[e.LimitReason] += e.Queued.Seconds()
			}
		})
		var list [][]any
		for _, c := range w.changes {
			if n := held[c.id]; n > 0 {
				list = append(list, []any{c.ts, c.provider, c.source, "rule", c.rateOld, c.rateNew, n, approx{seconds[c.id] / float64(n), 0.06}})
			}
		}
		return by(list, -7, 1)
	},
	"bounces-by-category": func(w *world) [][]any {
		all := rows(count(w, week.From, week.To, func(e *event.Event) (pair, bool) { return pair{e.Provider, string(e.Category)}, true }),
			func(k pair, c *tally) []any {
				if c.hard+c.soft == 0 {
					return nil
				}
				return []any{k[0], k[1], c.hard, c.soft, c.hard + c.soft}
			})
		by(all, -5, 1, 2)
		for i := range all {
			all[i] = all[i][:4]
		}
		return all
	},
	"deferral-reasons": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, func(e *event.Event) (pair, bool) { return pair{e.Provider, string(e.Dimension)}, true }),
			func(k pair, c *tally) []any {
				if c.deferred == 0 {
					return nil
				}
				return []any{k[0], k[1], c.deferred, c.deferredRecipients}
			}), -3, 1, 2)
	},
	"complaint-rates-by-day": func(w *world) [][]any {
		return by(rows(cohorts(w, monday, end, func(e *event.Event) time.Time { return dayOf(e.Time) }), func(d time.Time, c *cohort) []any {
			return []any{d, c.delivered, share(c.within[24], c.mature[24]), share(c.within[72], c.mature[72]), share(c.within[168], c.mature[168])}
		}), 1)
	},
	"complaints-by-tenant": func(w *world) [][]any {
		return by(rows(cohorts(w, monday, end, func(e *event.Event) string { return e.Tenant }), func(t string, c *cohort) []any {
			if c.complaints == 0 {
				return nil
			}
			return []any{t, c.complaints, c.mature[168], c.within[168], share(c.within[168], c.mature[168])}
		}), -5, 1)
	},
	"later-bounces-by-provider": func(w *world) [][]any {
		return by(rows(cohorts(w, monday, end, providerOf), func(p string, c *cohort) []any {
			if c.bounces == 0 {
				return nil
			}
			return []any{p, c.bounces, share(c.bounced, c.mature[72]), c.bouncedHard}
		}), -2, 1)
	},
	"time-to-deliver": func(w *world) [][]any {
		return by(rows(deliveriesBy(w, week.From, week.To, providerOf), func(p string, list []*event.Event) []any {
			seconds := make([]float64, len(list))
			for i, e := range list {
				seconds[i] = e.Queued.Seconds()
			}
			slices.Sort(seconds)
			return []any{p, quantile(seconds, 0.5), quantile(seconds, 0.9), quantile(seconds, 0.99)}
		}), 1)
	},
	"where-the-time-goes": func(w *world) [][]any {
		return by(rows(deliveriesBy(w, week.From, week.To, providerOf), func(p string, _ []*event.Event) []any {
			return []any{p, about(30), about(30), about(15), about(40), about(40)}
		}), 1)
	},
	"warming-up": func(w *world) [][]any {
		days := map[string]map[time.Time]int{}
		w.each(monday, end, func(e *event.Event) {
			if attempted(e) {
				if days[e.Source] == nil {
					days[e.Source] = map[time.Time]int{}
				}
				days[e.Source][dayOf(e.Time)] += b2i(e.Kind == event.Delivered)
			}
		})
		return by(rows(count(w, monday, end, bySource), func(s string, c *tally) []any {
			since, last := end, time.Time{}
			for d := range days[s] {
				if d.Before(since) {
					since = d
				}
				if d.After(last) {
					last = d
				}
			}
			return []any{s, since, len(days[s]), days[s][last], c.firstRate(), c.recipientDeferral()}
		}), -2, 1)
	},
	"blocks": func(w *world) [][]any {
		first, last, all := map[pair]time.Time{}, map[pair]time.Time{}, map[pair]int{}
		w.each(week.From, week.To, func(e *event.Event) {
			if k := (pair{e.Source, e.Provider}); attempted(e) && e.Dimension == taxonomy.Block {
				if all[k]++; all[k] == 1 {
					first[k] = e.Time.Truncate(time.Hour)
				}
				last[k] = e.Time.Truncate(time.Hour)
			}
		})
		return by(rows(all, func(k pair, n int) []any { return []any{k[0], k[1], n, first[k], last[k]} }), -3, 1, 2)
	},
	"temporary-answers": func(w *world) [][]any {
		type key struct{ provider, template, category string }
		all := map[key]int{}
		w.each(week.From, week.To, func(e *event.Event) {
			if e.Code/100 == 4 {
				all[key{e.Provider, e.ReplyTemplate, string(e.Category)}]++
			}
		})
		return by(rows(all, func(k key, n int) []any { return []any{k.provider, k.template, k.category, n} }), -4, 1, 2, 3)
	},
	"top-domains": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, func(e *event.Event) (string, bool) { return e.RecipientDomain, true }), func(d string, c *tally) []any {
			if c.delivered == 0 {
				return nil
			}
			return []any{d, c.delivered, c.deliveryRate(), c.recipientDeferral(), c.hardRate()}
		}), -2, 1)
	},
	"sender-domains": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, func(e *event.Event) (pair, bool) { return pair{e.FromDomain, e.Provider}, e.FromDomain != "" }),
			func(k pair, c *tally) []any {
				if c.finished() == 0 {
					return nil
				}
				return []any{k[0], k[1], c.delivered, c.deliveryRate(), c.recipientDeferral()}
			}), 4, 1, 2)
	},
	"vmtas": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, func(e *event.Event) (pair, bool) { return pair{e.Pool, e.VMTA}, true }), func(k pair, c *tally) []any {
			if c.attempts == 0 {
				return nil
			}
			return []any{k[0], k[1], c.delivered, c.octets, c.deliveryRate(), c.attemptDeferral()}
		}), -3, 1, 2)
	},
	"limit-changes": func(w *world) [][]any {
		var list [][]any
		for _, c := range w.changes {
			if !c.ts.Before(week.From) && c.kind != "would_change" {
				list = append(list, []any{c.ts, c.provider, c.source, "", "", c.rateOld, c.rateNew, "rule", "", c.actor})
			}
		}
		return list
	},
	"backlog": func(w *world) [][]any {
		type sums struct {
			due, later, stopped, oldest, most int
			limit                             string
		}
		all := map[pair]*sums{}
		for _, g := range w.gauges {
			if !g.Time.Equal(end.Add(-10 * time.Second)) { // the last reading
				continue
			}
			k := pair{g.Queue, g.Provider}
			if all[k] == nil {
				all[k] = &sums{}
			}
			s, ready := all[k], int(g.Ready) //nolint:gosec // small, like those below
			if ready > s.most {
				s.most, s.limit = ready, g.Limit
			}
			s.due += ready
			s.later += int(g.Waiting)                  //nolint:gosec // small
			s.stopped += int(g.Held + g.Paused)        //nolint:gosec // small
			s.oldest = max(s.oldest, int(g.OldestAge)) //nolint:gosec // small
		}
		list := by(rows(all, func(k pair, s *sums) []any {
			return []any{k[0], k[1], s.due, s.later, s.stopped, s.oldest, s.limit, "loop", s.due + s.later + s.stopped}
		}), -9, 1, 2)
		for i := range list {
			list[i] = list[i][:8]
		}
		return list
	},
	"tenants-by-week": func(w *world) [][]any {
		type key struct {
			week   time.Time
			tenant string
		}
		complaints := cohorts(w, monday, end, func(e *event.Event) key { return key{mondayOf(e.Time), e.Tenant} })
		return by(rows(count(w, monday, end, func(e *event.Event) (key, bool) { return key{mondayOf(e.Time), e.Tenant}, e.Tenant != "" }),
			func(k key, c *tally) []any {
				if c.finished() == 0 {
					return nil
				}
				of := complaints[k]
				return []any{k.week, k.tenant, c.delivered, c.deliveryRate(), c.hardRate(), share(of.within[168], of.mature[168])}
			}), 1, -3, 2)
	},
	"balance": func(w *world) [][]any {
		return by(rows(count(w, monday, end, func(e *event.Event) (string, bool) { return e.Tenant, e.Tenant != "" }), func(t string, c *tally) []any {
			return []any{t, c.accepted, c.finished(), c.suppressed, c.removed, c.left()}
		}), 1)
	},

	"top-queues": func(w *world) [][]any {
		last, all := map[string]string{}, map[string]map[recipient]bool{}
		w.each(end.Add(-time.Hour), end, func(e *event.Event) {
			if e.Kind == event.Deferred {
				last[e.Queue] = e.Reply
				if all[e.Queue] == nil {
					all[e.Queue] = map[recipient]bool{}
				}
				all[e.Queue][recipientOf(e)] = true
			}
		})
		return by(rows(all, func(q string, n map[recipient]bool) []any { return []any{q, len(n), last[q]} }), -2, 1)
	},
	"show-domains": func(w *world) [][]any {
		return by(rows(count(w, end.Add(-day), end, func(e *event.Event) (string, bool) { return e.RecipientDomain, true }), func(d string, c *tally) []any {
			if c.finished()+c.deferred == 0 {
				return nil
			}
			return []any{d, c.delivered, c.deferred, c.hard + c.soft}
		}), -2, 1)
	},
	"show-vmtas": func(w *world) [][]any {
		return by(rows(count(w, end.Add(-time.Hour), end, func(e *event.Event) (string, bool) { return e.VMTA, e.VMTA != "" }), func(v string, c *tally) []any {
			return []any{v, c.delivered, approx{float64(c.delivered) / 60, 0.006}, c.deferred}
		}), 1)
	},
	"show-jobs": func(w *world) [][]any {
		last := w.lastDays()
		return by(rows(count(w, monday, end, byJob), func(k jobKey, c *tally) []any {
			if last[k].Before(end.Add(-2 * day)) {
				return nil
			}
			return []any{k.job, c.accepted, c.delivered, c.hard + c.soft, c.left()}
		}), -5, 1)
	},
	"life-of-a-recipient": func(w *world) [][]any {
		whom := ""
		w.each(end.Add(-day), end, func(e *event.Event) {
			if e.Kind == event.Delivered && (whom == "" || e.Recipient < whom) {
				whom = e.Recipient
			}
		})
		var list [][]any
		for i := range w.events {
			e := &w.events[i]
			if e.Recipient != whom {
				continue
			}
			id := e.MessageID
			if e.OriginalMessageID != (event.ID{}) {
				id = e.OriginalMessageID
			}
			list = append(list, []any{e.Time, id.String(), e.Kind.String(), int(e.Attempt), e.Provider, e.Source, e.Reply})
		}
		return by(list, 1, 3)
	},
	"refused-for-reputation": func(w *world) [][]any {
		all, last := map[pair]int{}, map[pair]string{}
		w.each(week.From, week.To, func(e *event.Event) {
			if k := (pair{e.Provider, e.Source}); e.Kind == event.Bounced && e.Dimension == taxonomy.Block {
				all[k]++
				last[k] = e.Reply
			}
		})
		return by(rows(all, func(k pair, n int) []any { return []any{k[0], k[1], n, last[k]} }), -3, 1, 2)
	},
	"last-delivery": func(w *world) [][]any {
		last := map[pair]time.Time{}
		w.each(week.From, week.To, func(e *event.Event) {
			if e.Kind == event.Delivered {
				last[pair{e.Provider, e.Source}] = e.Time.Truncate(time.Hour)
			}
		})
		return by(rows(count(w, week.From, week.To, func(e *event.Event) (pair, bool) { return pair{e.Provider, e.Source}, e.Source != "" }),
			func(k pair, c *tally) []any { return []any{k[0], k[1], last[k], c.attempts} }), 3, 1, 2)
	},
	"clear-text-domains": func(w *world) [][]any {
		all := map[string]int{}
		w.each(week.From, week.To, func(e *event.Event) {
			if e.Kind == event.Delivered && e.TLSVersion == "" {
				all[e.RecipientDomain]++
			}
		})
		return by(rows(all, func(d string, n int) []any { return []any{d, n} }), -2, 1)
	},
	"complaints-by-job": func(w *world) [][]any {
		all, first := map[jobKey]int{}, map[jobKey]float64{}
		for _, r := range w.counted() {
			if r.kind == event.Complaint {
				k, hours := jobKey{r.delivered.Job, r.delivered.Tenant}, r.time.Sub(r.delivered.Time).Hours()
				if all[k]++; all[k] == 1 || hours < first[k] {
					first[k] = hours
				}
			}
		}
		list := by(rows(all, func(k jobKey, n int) []any { return []any{k.job, k.tenant, n, approx{first[k], 0.006}} }), -3, 1, 2)
		return list[:min(20, len(list))]
	},
	"bill": func(w *world) [][]any {
		return by(rows(count(w, week.From, week.To, byTenant), func(t string, c *tally) []any {
			if c.delivered == 0 {
				return nil
			}
			return []any{t, c.delivered, approx{float64(c.octets) / 1e6, 0.0006}}
		}), -2, 1)
	},
}
