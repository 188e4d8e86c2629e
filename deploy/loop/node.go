package loop

import (
	"math"
	"strconv"
	"strings"
	"time"

	"carom/analytics/control"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
	"carom/ingest/classify"
	"carom/schemas/limits"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// connection returns a connection that is free, opening one where the limit allows it. Without one
// the verdict says what the receiver answered, if it was asked.
func (n *node) connection(w *world) (*conn, provider.Verdict) {
	for i := 0; i < len(n.conns); i++ {
		c := &n.conns[i]
		switch {
		case c.free > w.now:
		case c.sent >= int(min(n.limit.MessagesPerConnection, math.MaxInt32)):
			n.close(w, i)
			i--
		default:
			return c, provider.Verdict{}
		}
	}
	if len(n.conns) >= int(min(n.limit.Connections, math.MaxInt32)) || w.now < n.reopen {
		return nil, provider.Verdict{}
	}
	v := w.hidden.Connect(w.now, n.source)
	if v.Class != provider.OK {
		if v.Outage == scenarios.OutageTimeout {
			n.conns = append(n.conns, conn{free: w.now + silence, hung: true})
		}
		return nil, v
	}
	n.conns = append(n.conns, conn{free: w.now})
	return &n.conns[len(n.conns)-1], provider.Verdict{}
}

func (n *node) close(w *world, i int) {
	if !n.conns[i].hung {
		w.hidden.Disconnect(w.now, n.source)
	}
	last := len(n.conns) - 1
	n.conns[i] = n.conns[last]
	n.conns = n.conns[:last]
}

// closeIdle ends connections that carry nothing any more, and those that are over the limit.
func (n *node) closeIdle(w *world) {
	most := int(min(n.limit.Connections, math.MaxInt32))
	for i := len(n.conns) - 1; i >= 0; i-- {
		c := &n.conns[i]
		if c.free <= w.now && (c.hung || len(n.conns) > most || w.now-c.free > idleTime) {
			n.close(w, i)
		}
	}
}

// attempt speaks of one message on a connection that is free.
func (n *node) attempt(w *world, c *conn, id int32) {
	n.tokens--
	m := &w.messages[id]
	if most := w.config.MsgsPerConn; most > 0 && c.sent >= most {
		n.record(w, w.hidden.EndOfConnection(w.now, n.source), id, c.sent+1)
		c.free, c.sent = w.now, math.MaxInt32 // closed by the next who looks at it
		n.retries.push(again{due: w.now, id: id})
		return
	}
	c.sent++
	c.free = w.now + w.latency()
	var v provider.Verdict
	if s := w.special[m.stream]; s != nil {
		var refused bool
		if v, refused = s.refuses(w.now); refused {
			n.record(w, v, id, 0)
			if v.Reply[0] == '4' {
				n.later(w, id)
			}
			return
		}
	}
	v = w.hidden.Mail(w.now, n.source)
	if v.Class == provider.OK {
		v = w.hidden.Rcpt(w.now, n.source, w.senders[m.stream], w.recipient(m))
	}
	if v.Class == provider.OK {
		v = w.hidden.Data(w.now, n.source, 1)
	}
	n.record(w, v, id, 0)
	if v.Class == provider.OK || v.Class == provider.User {
		w.accepted[m.stream]++
		w.delays = append(w.delays, float32((w.now - m.born).Seconds()))
		return
	}
	n.later(w, id)
}

// recipient returns the address of a message: the same one at every attempt.
func (w *world) recipient(m *message) string {
	w.address = append(w.address[:0], w.scenario.Load[m.stream].Tenant...)
	w.address = append(w.address, '-')
	w.address = strconv.AppendInt(w.address, int64(m.number), 10)
	w.address = append(w.address, '@')
	w.address = append(w.address, w.config.Domains[0]...)
	return string(w.address)
}

func (w *world) latency() time.Duration {
	from, to := w.config.LatencyMS[0], w.config.LatencyMS[1]
	return time.Duration((from + (to-from)*w.rng.Float64()) * float64(time.Millisecond))
}

// later puts a message off by the configured interval and up to a tenth of it.
func (n *node) later(w *world, id int32) {
	m := &w.messages[id]
	wait := w.setup.Retry[min(int(m.attempts), len(w.setup.Retry)-1)]
	m.attempts++
	n.retries.push(again{due: w.now + time.Duration((1+0.1*w.rng.Float64())*float64(wait)), id: id})
}

// record counts an answer as the event log would, and shows it to the guard and to the sender.
func (n *node) record(w *world, v provider.Verdict, id int32, number int) {
	judged := w.judge(v)
	first := w.messages[id].attempts == 0
	if s := w.special[w.messages[id].stream]; s != nil {
		s.count(w.now, judged.dimension)
	}
	if judged.scope == taxonomy.ScopeDomain || judged.scope == taxonomy.ScopeURL {
		w.sender.observe(w, n, judged.dimension, judged.scope)
		return // no evidence about the source (design/control.md 5.5, rule 6)
	}
	b := n.bucket(w.now, n.limit.Epoch)
	count(&b.Counts, judged.dimension)
	switch {
	case judged.dimension == taxonomy.Connections || judged.dimension == taxonomy.Messages:
	case first:
		b.First++
	default:
		b.Retry++
	}
	if judged.dimension == taxonomy.Other {
		if first {
			b.FirstOther++
		} else {
			b.RetryOther++
		}
	}
	b.MaxOpen = max(b.MaxOpen, uint32(len(n.conns))) //nolint:gosec // few connections
	if number > 0 {
		b.MinMessages = min(b.MinMessages, uint32(number)) //nolint:gosec // few messages
	}
	if v.Class != provider.OK && b.Sample == "" {
		b.Sample = v.Reply
	}
	dimension := judged.dimension
	if n.grey && dimension == taxonomy.Other && first {
		dimension = taxonomy.Greylist
	}
	w.sender.observe(w, n, dimension, judged.scope)
}

// bucket returns the row of statistics for now; nodes change to a new epoch one after another, so
// a few rows may be open.
func (k *key) bucket(now time.Duration, epoch uint64) *control.Bucket {
	start := now.Truncate(bucketStep)
	for i := len(k.buckets) - 1; i >= 0 && k.buckets[i].Start == start; i-- {
		if k.buckets[i].Epoch == epoch {
			return &k.buckets[i]
		}
	}
	k.buckets = append(k.buckets, control.Bucket{Start: start, Epoch: epoch, MinMessages: control.NoMessages})
	return &k.buckets[len(k.buckets)-1]
}

func count(c *control.Counts, d taxonomy.Dimension) {
	switch d {
	case taxonomy.OK:
		c.OK++
	case taxonomy.User:
		c.User++
	case taxonomy.Rate:
		c.Rate++
	case taxonomy.Connections:
		c.Connections++
	case taxonomy.Messages:
		c.Messages++
	case taxonomy.Block:
		c.Block++
	case taxonomy.Greylist:
		c.Greylist++
	case taxonomy.Unavailable:
		c.Unavailable++
	case taxonomy.Content:
		c.Content++
	case taxonomy.Auth:
		c.Auth++
	default:
		c.Other++
	}
}

// judge asks carom's own classifier what a reply means. A receiver has few texts, so each is asked
// about once.
func (w *world) judge(v provider.Verdict) verdict {
	question := asked{v.Class, v.Outage}
	if known, ok := w.verdicts[question]; ok {
		return known
	}
	in := classify.Input{Provider: w.config.Name}
	switch {
	case v.Class == provider.Msgc && w.config.SilentClose:
		// The sender says so after it saw the same number twice (sender/deliver).
		w.verdicts[question] = verdict{dimension: taxonomy.Messages}
		return w.verdicts[question]
	case v.Outage == scenarios.OutageRefuse:
		in.Local = classify.ConnectRefused
	case v.Outage == scenarios.OutageTimeout:
		in.Local = classify.ReplyTimeout
	default:
		text := strings.NewReplacer("{ip}", "192.0.2.1", "{mx}", "mx.example", "{rcpt}", "someone@example.com").Replace(v.Reply)
		in.Reply = smtpstatus.Parse(text)
	}
	got := classify.Classify(in)
	w.verdicts[question] = verdict{dimension: got.Dimension, scope: got.Scope}
	return w.verdicts[question]
}

// again is a message that waits.
type again struct {
	due time.Duration
	id  int32
}

// retryHeap holds retries, the first that is due on top.
type retryHeap []again

func (h *retryHeap) push(r again) {
	*h = append(*h, r)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].due <= s[i].due {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *retryHeap) pop() again {
	s := *h
	top := s[0]
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if down+1 < last && s[down+1].due < s[down].due {
			down++
		}
		if s[i].due <= s[down].due {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*h = s
	return top
}

// sender is what a node obeys: the loop, or a rule that it is compared with.
type sender interface {
	// start prepares the nodes and keys.
	start(w *world)
	// tick runs before the nodes send.
	tick(w *world)
	// limit returns what binds a node now.
	limit(w *world, n *node) limits.Effective
	// observe is told of every answer.
	observe(w *world, n *node, dimension taxonomy.Dimension, scope taxonomy.Scope)
}
