package control

import (
	"math"
	"slices"
	"time"

	"carom/schemas/limits"
)

// NoMessages is the MinMessages of a bucket in which no message number was refused.
const NoMessages = math.MaxUint32

// Counts are numbers of attempts by what the receiver answered (taxonomy.Dimension).
type Counts struct {
	OK          uint64
	User        uint64
	Rate        uint64
	Connections uint64
	Messages    uint64
	Block       uint64
	Greylist    uint64
	Unavailable uint64
	Content     uint64
	Auth        uint64
	Other       uint64
}

// Add adds d to c.
func (c *Counts) Add(d Counts) {
	c.OK += d.OK
	c.User += d.User
	c.Rate += d.Rate
	c.Connections += d.Connections
	c.Messages += d.Messages
	c.Block += d.Block
	c.Greylist += d.Greylist
	c.Unavailable += d.Unavailable
	c.Content += d.Content
	c.Auth += d.Auth
	c.Other += d.Other
}

// accepted counts what the receiver took or would have taken: an unknown user was not refused
// for the rate.
func (c *Counts) accepted() uint64 { return c.OK + c.User }

// refused counts refusals that are about the rate or the source.
func (c *Counts) refused() uint64 { return c.Rate + c.Block + c.Unavailable }

// replies counts what says something about the rate.
func (c *Counts) replies() uint64 { return c.accepted() + c.refused() + c.Other }

// attempts counts what used up the limit. A refused connection carried no message.
func (c *Counts) attempts() uint64 {
	return c.replies() + c.Greylist + c.Messages + c.Content + c.Auth
}

// all counts everything.
func (c *Counts) all() uint64 { return c.attempts() + c.Connections }

// Bucket is what one key was answered in one Step, under one epoch.
type Bucket struct {
	Start time.Duration
	Epoch uint64
	Counts
	// First and Retry count the replies to first attempts and to retries, FirstOther and
	// RetryOther those among them that nobody could classify.
	First       uint64
	FirstOther  uint64
	Retry       uint64
	RetryOther  uint64
	MaxOpen     uint32
	MinMessages uint32 // NoMessages for none
	Sample      string // one of the refusals, or ""
}

// Windows is what the loop knows of one key when it decides.
type Windows struct {
	// Static is the configured limit over all live nodes; Adaptive the ceiling above it, with 0
	// where there is none.
	Static   limits.Limit
	Adaptive limits.Limit

	// Buckets hold the answers in order of time; those that are still open at To are not read.
	Buckets []Bucket
	// To is the end of the last complete bucket; Newest the end of the last one, of any epoch,
	// that holds data of this key.
	To     time.Duration
	Newest time.Duration
	// Delay is the worst delay from an event to its effect, as measured.
	Delay time.Duration

	// Hour counts the answers of the last hour, over all epochs.
	Hour Counts

	// Nodes is the number of live nodes of the key, Waiting the share of them with backlog.
	Nodes   int
	Waiting float64

	// Pin is what an operator set for the key, nil for nothing.
	Pin *Pin
	// Warmup is set for a source that is being warmed up; it caps the rate. It is not looked at
	// for an Established source.
	Warmup *Warmup
	// Established says that the operator vouches for the source: it is not new.
	Established bool
	// HistoryRate is the 95th percentile of the hourly accepted rates of the last 14 days, in
	// messages a second; 0 without history. A key that the loop never limited starts with it.
	HistoryRate float64
	// Frozen says why nothing may be learned from the answers: the source is disabled, or the
	// provider refuses all sources alike. "" for a key that is not frozen.
	Frozen string
	// PermanentlyDeferred says that the receiver answered in the last 24 hours that retrying will
	// not help (Yahoo's TS03), or that an external signal says the same (SNDS red).
	PermanentlyDeferred bool
}

// end returns where the evidence ends: with the last complete bucket, or with the last data before
// it. What was not shipped yet is not a time in which nothing was accepted.
func (w *Windows) end() time.Duration {
	if w.Newest > 0 {
		return min(w.To, w.Newest)
	}
	return w.To
}

// WilsonLow returns the lower end of Wilson's interval for k of n at z standard deviations.
func WilsonLow(k, n uint64, z float64) float64 {
	if n == 0 {
		return 0
	}
	count, p := float64(n), float64(k)/float64(n)
	mid := p + z*z/(2*count)
	half := z * math.Sqrt(p*(1-p)/count+z*z/(4*count*count))
	return max(0, (mid-half)/(1+z*z/count))
}

// WilsonHigh returns the upper end of the same interval.
func WilsonHigh(k, n uint64, z float64) float64 { return 1 - WilsonLow(n-min(k, n), n, z) }

// evidence sums the buckets of epoch between from and to; from moves up to the first of them.
func (p *Policy) evidence(buckets []Bucket, epoch uint64, from, to time.Duration) Evidence {
	e := Evidence{From: to, To: to, MinMessages: NoMessages}
	for i := range buckets {
		b := &buckets[i]
		if b.Epoch != epoch || b.Start < from || b.Start+p.Step > to {
			continue
		}
		e.From = min(e.From, b.Start)
		e.Counts.Add(b.Counts)
		e.MaxOpen = max(e.MaxOpen, b.MaxOpen)
		e.MinMessages = min(e.MinMessages, b.MinMessages)
		if b.Sample != "" && len(e.Samples) < 3 && !slices.Contains(e.Samples, b.Sample) {
			e.Samples = append(e.Samples, b.Sample)
		}
	}
	e.Replies, e.Refusals = e.Counts.replies(), e.Counts.refused()
	if WilsonLow(e.Counts.Other, e.Replies, p.Decrease.UnclassifiedZ) > p.Decrease.UnclassifiedShare {
		e.Unclassified = true
		e.Refusals += e.Counts.Other
	}
	if e.Replies > 0 {
		e.RefusedShare = float64(e.Refusals) / float64(e.Replies)
	}
	e.WilsonLow = WilsonLow(e.Refusals, e.Replies, p.Decrease.Z)
	if d := (e.To - e.From).Seconds(); d > 0 {
		e.AttemptRate = float64(e.Counts.attempts()) / d
		e.AcceptedRate = float64(e.Counts.accepted()) / d
	}
	return e
}

func (e *Evidence) duration() time.Duration { return e.To - e.From }

// window is how far back evidence is read at rate messages a second.
func (p *Policy) window(rate float64) time.Duration {
	far := time.Duration(min(p.WindowMax.Seconds(), p.WindowMessages/rate) * float64(time.Second))
	return max(p.WindowMin, far)
}
