package cold

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kill stops using a store as a crash would: what it wrote is there, what it had in mind is not.
func kill(s *Store) { _ = s.file.Close() }

// daily returns a quota that is the same for all cold virtual MTAs.
func daily(days ...int) func(string, int) int {
	return func(_ string, day int) int { return days[min(day, len(days))-1] }
}

// offer sends n messages and returns how many each virtual MTA got.
func offer(s *Store, n int, domain string, colds []string, quota func(string, int) int) map[string]int {
	got := map[string]int{}
	for range n {
		got[s.Choose("warm", domain, colds, quota)]++
	}
	return got
}

func TestFirstMessagesOfADayGoToTheColdOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "cold")
		s, quota := open(t, path), daily(10, 20, 40)
		for day, want := range []int{10, 20, 40, 40} {
			if got := offer(s, 30, "a.test", []string{"cold"}, quota); got["cold"] != min(want, 30) {
				t.Errorf("day %d: %v, want %d", day+1, got, min(want, 30))
			}
			if err := s.Close(); err != nil { // and nothing is lost
				t.Fatal(err)
			}
			s = open(t, path)
			if got := offer(s, 30, "a.test", []string{"cold"}, quota); got["cold"] != want-min(want, 30) {
				t.Errorf("day %d after a restart: %v, want %d", day+1, got, want-min(want, 30))
			}
			if got := offer(s, 5, fmt.Sprintf("day%d.test", day), []string{"cold"}, quota); got["cold"] != 5 {
				t.Errorf("day %d of another domain: %v", day+1, got)
			}
			time.Sleep(24 * time.Hour)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSeveralColdOnesTakeTurns(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "cold"))
	colds := []string{"c1", "c2", "c3"}
	quota := func(cold string, _ int) int { return map[string]int{"c1": 5, "c2": 2, "c3": 0}[cold] }
	order := make([]string, 0, 8)
	for range 8 {
		order = append(order, s.Choose("warm", "a.test", colds, quota))
	}
	if got := strings.Join(order, " "); got != "c1 c2 c1 c2 c1 c1 c1 warm" {
		t.Errorf("order %s", got)
	}
	if got := s.Choose("warm", "b.test", nil, quota); got != "warm" {
		t.Errorf("without a cold one: %s", got)
	}
	if got := s.Choose("warm", "b\n.test", colds, quota); got != "warm" {
		t.Errorf("a domain that the file cannot hold: %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestQuotaIsNeverExceeded: whatever happens in which order.
func TestQuotaIsNeverExceeded(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"mail", "mail", "mail", "crash", "restart", "day"}), 1, 40).Draw(r, "steps")
		most := rapid.IntRange(1, 60).Draw(r, "quota")
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cold")
			s := open(t, path)
			quota := daily(most, 2*most)
			type counted struct {
				day    int
				domain string
			}
			got, crashes := map[counted]int{}, 0
			first := map[string]int{}
			for i, step := range steps {
				switch step {
				case "mail":
					domain, offered := []string{"a.test", "b.test"}[i%2], 1+i*7%25
					day := dayOf(time.Now())
					if _, ok := first[domain]; !ok {
						first[domain] = day
					}
					before := got[counted{day, domain}]
					taken := offer(s, offered, domain, []string{"cold"}, quota)["cold"]
					got[counted{day, domain}] += taken
					limit := quota("", day-first[domain]+1)
					if before+taken > limit {
						t.Fatalf("%d messages of %s on day %d, quota %d", before+taken, domain, day-first[domain]+1, limit)
					}
					if crashes == 0 && taken != min(offered, limit-before) {
						t.Fatalf("%d of %d messages after %d, quota %d", taken, offered, before, limit)
					}
				case "crash":
					crashes++
					kill(s)
					s = open(t, path)
				case "restart":
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open(t, path)
				case "day":
					time.Sleep(24 * time.Hour)
				}
			}
			kill(s)
		})
	})
}

// TestACrashCostsABlockAtMost and the counters of concurrent feeders are right.
func TestACrashCostsABlockAtMost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cold")
	s, quota := open(t, path), daily(1000)
	var mu sync.Mutex
	total := 0
	feed := func(n int) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got := offer(s, n, "a.test", []string{"cold"}, quota)["cold"]
				mu.Lock()
				total += got
				mu.Unlock()
			})
		}
		wg.Wait()
	}
	feed(40)
	if total != 320 {
		t.Fatalf("%d of 320 messages", total)
	}
	kill(s)
	s = open(t, path)
	feed(500)
	if total > 1000 || total < 1000-110 {
		t.Errorf("%d messages with a crash between, quota 1000", total)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADiskThatFailsKeepsMailWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "cold")
		s, quota := open(t, path), daily(100)
		if got := offer(s, 5, "a.test", []string{"cold"}, quota); got["cold"] != 5 {
			t.Fatal(got)
		}
		_ = s.file.Close() // writes fail from here on
		got := offer(s, 100, "a.test", []string{"cold"}, quota)
		if got["cold"] > 6+10 {
			t.Errorf("%v with a disk that fails: more than what is reserved", got)
		}
		time.Sleep(retryWrite)
		more := offer(s, 200, "a.test", []string{"cold"}, quota)
		if sum := 5 + got["cold"] + more["cold"]; sum != 100 {
			t.Errorf("%d messages after the disk came back, quota 100", sum)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDamageClosesTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "cold")
		s, quota := open(t, path), daily(10, 20)
		offer(s, 3, "a.test", []string{"cold"}, quota)
		offer(s, 3, "b.test", []string{"cold"}, quota)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[3] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a restart does not open the day again
			s = open(t, path)
			if got := offer(s, 3, "c.test", []string{"cold"}, quota); got["cold"] != 0 {
				t.Errorf("%v out of a damaged file", got)
			}
			kill(s)
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != string(data) {
			t.Errorf("the damaged file is not kept: %v", err)
		}
		time.Sleep(24 * time.Hour)
		s = open(t, path)
		if got := offer(s, 30, "c.test", []string{"cold"}, quota); got["cold"] != 10 {
			t.Errorf("%v on the next day", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestATornEndIsNoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cold")
	s, quota := open(t, path), daily(10)
	offer(s, 3, "a.test", []string{"cold"}, quota)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("warm\tcold\ta.te")
	_ = f.Close()
	s = open(t, path)
	if got := offer(s, 30, "a.test", []string{"cold"}, quota); got["cold"] != 7 {
		t.Errorf("%v after a torn line, want 7 more", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cold")
	s := open(t, path)
	s.lines = spareLines // as after many blocks
	if got := offer(s, 50, "a.test", []string{"cold"}, daily(100))["cold"]; got != 50 || s.lines > 20 {
		t.Errorf("%d messages, %d lines", got, s.lines)
	}
	kill(s)
	if got := offer(open(t, path), 100, "a.test", []string{"cold"}, daily(100))["cold"]; got > 50 || got < 39 {
		t.Errorf("%d more after a crash", got)
	}
}

func TestNoQuotaCountsNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "cold"))
	for i := range 1000 {
		s.Choose("warm", fmt.Sprint(i), []string{"cold"}, daily(0))
	}
	if len(s.counters) != 0 || len(s.turns) != 0 {
		t.Errorf("%d counters without a quota", len(s.counters))
	}
	kill(s)
}

func FuzzRead(f *testing.F) {
	line := appendLine(nil, key{"warm", "cold", "a.test"}, &counter{first: 20000, day: 20003}, 17)
	f.Add(line)
	f.Add(append(appendLine(nil, key{}, &counter{first: 1, day: 1}, 0), line...))
	f.Add([]byte("a\tb\tc\td\te\tf\tg\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Store{logger: quiet, counters: map[key]*counter{}}
		damaged, err := s.read(strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		var again []byte
		for k, c := range s.counters {
			again = appendLine(again, k, c, c.reserved)
		}
		copied := &Store{logger: quiet, counters: map[key]*counter{}}
		if damaged, err := copied.read(strings.NewReader(string(again))); damaged != 0 || err != nil || len(copied.counters) != len(s.counters) {
			t.Fatalf("%d lines damaged on the way, %d of %d counters (%v)", damaged, len(copied.counters), len(s.counters), err)
		}
		_ = damaged
	})
}
