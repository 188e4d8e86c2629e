package queue

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// waiting returns an item of n recipients.
func waiting(job string, n int, arrived, due time.Time) *Item {
	i := &Item{Labels: Label(job, "t"), Arrived: At(arrived), Due: At(due), Priority: DefaultPriority}
	for index := range n {
		i.AddRecipient(uint32(index))
	}
	return i
}

func TestBacklogsDivideWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(&worker{}, Options{})
		m.SetHolds([]Hold{{ID: "1", Filter: Filter{Queue: "paused.example/*"}}, {ID: "2", Filter: Filter{Job: "held"}}})
		now := time.Now()
		long := Name{"long.example", "v"}
		m.Add(long, waiting("j", 2, now.Add(-time.Minute), time.Time{}))
		m.Add(long, waiting("j", 3, now.Add(-time.Hour), now.Add(time.Hour)))
		m.Add(long, waiting("j", 1, now.Add(-time.Minute), now.Add(-time.Second)))
		m.Add(long, waiting("held", 5, now.Add(-2*time.Hour), time.Time{}))
		m.Add(Name{"paused.example", "v"}, waiting("j", 4, now, time.Time{}))
		m.Add(Name{"small.example", "v"}, waiting("k", 1, now.Add(-time.Second), time.Time{}))
		m.Add(Name{"tiny.example", "v"}, waiting("held", 1, now.Add(-3*time.Hour), time.Time{}))
		failed := Name{"failed.example", "v"}
		m.Add(failed, waiting("j", 3, now, time.Time{}))
		m.Queue(failed).Failed([]time.Duration{time.Minute}, 0)

		backlogs, others, queues := m.Backlogs(3)
		var got []string
		for _, b := range backlogs {
			for _, s := range b.Shares {
				got = append(got, fmt.Sprintf("%s %s/%s ready %d waiting %d held %d paused %d, oldest %s", b.Status.Name, s.Labels.Tenant, s.Labels.Job,
					s.Ready, s.Waiting, s.Held, s.Paused, now.Sub(s.Oldest.Time()).Round(time.Second)))
				if s.Estimated {
					t.Errorf("%s is estimated", b.Status.Name)
				}
			}
		}
		if diff := cmp.Diff([]string{
			"long.example/v t/j ready 3 waiting 3 held 0 paused 0, oldest 1h0m0s",
			"long.example/v t/held ready 0 waiting 0 held 5 paused 0, oldest 2h0m0s",
			"paused.example/v t/j ready 0 waiting 0 held 0 paused 4, oldest 0s",
			"failed.example/v t/j ready 0 waiting 3 held 0 paused 0, oldest 0s",
		}, got); diff != "" {
			t.Errorf("backlogs (-want +got):\n%s", diff)
		}
		if queues != 2 || others.Ready != 1 || others.Held != 1 || others.Recipients() != 2 || now.Sub(others.Oldest.Time()) != 3*time.Hour {
			t.Errorf("the others are %d queues: %+v", queues, others)
		}
	})
}

func TestLongQueuesAreSampled(t *testing.T) {
	m := NewManager(&worker{}, Options{})
	now := time.Now()
	name := Name{"long.example", "v"}
	const items = 40_000
	for n := range items { // feeders take turns
		m.Add(name, waiting([]string{"a", "b", "c", "d"}[n%4], 1+n%2, now.Add(-time.Hour), time.Time{}))
	}
	for n := range 20 {
		m.Add(name, waiting(fmt.Sprint("few", n), 1, now, now.Add(time.Hour)))
	}
	backlogs, _, _ := m.Backlogs(1)
	shares := backlogs[0].Shares
	sum := 0
	for _, s := range shares {
		sum += s.Recipients()
		if !s.Estimated {
			t.Errorf("%+v is not said to be estimated", s)
		}
	}
	if want := items*3/2 + 20; sum != want || m.Recipients(name) != want {
		t.Errorf("the shares sum up to %d, want %d", sum, want)
	}
	// b and d have twice the recipients of a and c. A sample of 1,024 stays within 5 standard deviations.
	for i, want := range []int{20_000, 20_000, 10_000, 10_000} {
		if got := shares[i].Ready; got < want*6/10 || got > want*14/10 {
			t.Errorf("share %d, %s, has %d recipients, want about %d", i, shares[i].Labels.Job, got, want)
		}
	}
	if _, others, queues := m.Backlogs(0); queues != 1 || others.Recipients() != sum || !others.Estimated {
		t.Errorf("others of %d queues: %+v", queues, others)
	}
}

func TestSmallSharesOfAQueueAreSummed(t *testing.T) {
	m := NewManager(&worker{}, Options{})
	name := Name{"a.example", "v"}
	for n := range 30 {
		m.Add(name, waiting(fmt.Sprintf("job%02d", n), 30-n, time.Now(), time.Time{}))
	}
	backlogs, _, _ := m.Backlogs(5)
	shares := backlogs[0].Shares
	if len(shares) != maxShares || shares[0].Labels.Job != "job00" || shares[0].Ready != 30 {
		t.Fatalf("%d shares, the first %+v", len(shares), shares[0])
	}
	if last := shares[maxShares-1]; last.Labels != (Labels{}) || last.Ready != 21*22/2 {
		t.Errorf("the last share is %+v, want the sum of the 21 small ones", last)
	}
}

// BenchmarkBacklogs: a million messages in a hundred thousand queues, one of them with half of the mail.
func BenchmarkBacklogs(b *testing.B) {
	m := NewManager(&worker{}, Options{})
	now := time.Now()
	for n := range 1_000_000 {
		name := Name{"long.example", "v"}
		if n%2 == 0 {
			name = Name{fmt.Sprintf("d%d.example", n/2%100_000), "v"}
		}
		due := time.Time{}
		if n%3 == 0 {
			due = now.Add(time.Duration(n) * time.Millisecond)
		}
		m.Add(name, waiting(fmt.Sprint("job", n%50), 1, now, due))
	}
	b.ReportAllocs()
	for b.Loop() {
		if backlogs, _, _ := m.Backlogs(200); len(backlogs) != 200 {
			b.Fatal(len(backlogs))
		}
	}
}

// BenchmarkLongBacklog takes as long as a queue of half a million messages is kept from those who work on
// it.
func BenchmarkLongBacklog(b *testing.B) {
	m := NewManager(&worker{}, Options{})
	now := time.Now()
	name := Name{"long.example", "v"}
	for n := range 500_000 {
		due := time.Time{}
		if n%3 == 0 {
			due = now.Add(time.Duration(n) * time.Millisecond)
		}
		m.Add(name, waiting(fmt.Sprint("job", n%50), 1, now, due))
	}
	q := m.Queue(name)
	for b.Loop() {
		q.backlog(now)
	}
}
