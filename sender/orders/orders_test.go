package orders

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var (
	noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	ip   = netip.MustParseAddr("192.0.2.1")
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t *testing.T, s *Store, o Order) Order {
	t.Helper()
	if o.Made.IsZero() {
		o.Made = noon
	}
	added, err := s.Add(o)
	if err != nil {
		t.Fatalf("Add(%s): %v", &o, err)
	}
	return added
}

func ids(orders []Order) []uint64 {
	list := make([]uint64, 0, len(orders))
	for _, o := range orders {
		list = append(list, o.ID)
	}
	return list
}

func TestOrdersAreThereAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	s := open(t, path)
	want := []Order{
		add(t, s, Order{Kind: Pause, Filter: Filter{Queue: "gmail.com/*", Job: "june"}, Reason: `"blocked" <again>`, Actor: "ann", Expires: noon.Add(time.Hour)}),
		add(t, s, Order{Kind: Delete, Filter: Filter{Tenant: "shop", ArrivedBefore: noon}, Actor: "bob"}),
		add(t, s, Order{Kind: Reroute, Filter: Filter{Domain: "yahoo.com", ArrivedBefore: noon}, To: "mail2", Actor: "bob"}),
		add(t, s, Order{Kind: SetMode, Filter: Filter{Queue: "*/*"}, Mode: ModeBackoff, Actor: "bob"}),
		add(t, s, Order{Kind: DisableSource, Filter: Filter{Queue: "a.test/*"}, IP: ip, Actor: "bob"}),
	}
	again := open(t, path)
	if diff := cmp.Diff(want, again.List(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("orders read back (-want +got):\n%s", diff)
	}
	if err := again.End(5, 2); err != nil {
		t.Fatal(err)
	}
	last := open(t, path)
	if got := ids(last.List()); !slices.Equal(got, []uint64{1, 3, 4}) {
		t.Errorf("after the end of 5 and 2 there are %v", got)
	}
	if o := add(t, last, Order{Kind: Pause, Filter: Filter{Job: "x"}}); o.ID != 6 {
		t.Errorf("the next order is %d, want 6: a number is never used again", o.ID)
	}
}

func TestEndOfWhatIsNotThereChangesNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), FileName))
	add(t, s, Order{Kind: Pause, Filter: Filter{Job: "x"}})
	if err := s.End(1, 2); !errors.Is(err, ErrUnknown) {
		t.Errorf("End = %v, want ErrUnknown", err)
	}
	if err := s.Extend(2, noon); !errors.Is(err, ErrUnknown) {
		t.Errorf("Extend = %v, want ErrUnknown", err)
	}
	if len(s.List()) != 1 {
		t.Errorf("left are %v", ids(s.List()))
	}
}

func TestOrdersExpire(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	s := open(t, path)
	add(t, s, Order{Kind: Pause, Filter: Filter{Job: "a"}, Expires: noon.Add(time.Minute)})
	add(t, s, Order{Kind: Pause, Filter: Filter{Job: "b"}})
	add(t, s, Order{Kind: Pause, Filter: Filter{Job: "c"}, Expires: noon.Add(time.Hour)})
	if err := errors.Join(s.Extend(1, noon.Add(2*time.Minute)), s.Extend(1, noon.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		at    time.Duration
		ended []uint64
	}{{time.Minute, []uint64{}}, {2 * time.Minute, []uint64{1}}, {3 * time.Minute, []uint64{}}, {time.Hour, []uint64{3}}} {
		ended, err := s.Expire(noon.Add(step.at))
		if err != nil || !slices.Equal(ids(ended), step.ended) {
			t.Errorf("at noon + %s ended %v, %v; want %v", step.at, ids(ended), err, step.ended)
		}
	}
	if got := ids(open(t, path).List()); !slices.Equal(got, []uint64{2}) {
		t.Errorf("on disk are %v, want the one without an end", got)
	}
}

func TestDisabledSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), FileName))
		add(t, s, Order{Kind: DisableSource, Filter: Filter{Queue: "gmail.com/*"}, IP: ip, Made: time.Now(), Expires: time.Now().Add(time.Hour)})
		add(t, s, Order{Kind: Pause, Filter: Filter{Queue: "*/*"}, Made: time.Now()})
		for _, tc := range []struct {
			queue string
			ip    netip.Addr
			want  bool
		}{
			{"gmail.com/mail1", ip, true},
			{"gmail.com/mail2", ip, true},
			{"gmail.com/mail1", ip.Next(), false},
			{"yahoo.com/mail1", ip, false},
		} {
			if got := s.Disabled(tc.queue, tc.ip); got != tc.want {
				t.Errorf("Disabled(%s, %s) = %t", tc.queue, tc.ip, got)
			}
		}
		time.Sleep(time.Hour)
		if s.Disabled("gmail.com/mail1", ip) {
			t.Error("still disabled after the end")
		}
	})
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), FileName))
	for _, tc := range []struct {
		name string
		o    Order
		want string
	}{
		{"no kind", Order{Filter: Filter{Job: "x"}}, "unknown kind"},
		{"pause of nothing", Order{Kind: Pause}, "pause what?"},
		{"delete of nothing but a time", Order{Kind: Delete, Filter: Filter{ArrivedBefore: noon}}, "delete what?"},
		{"delete without a time", Order{Kind: Delete, Filter: Filter{Job: "x"}}, "needs the time"},
		{"delete for an hour", Order{Kind: Delete, Filter: Filter{Job: "x", ArrivedBefore: noon}, Expires: noon.Add(time.Hour)}, "does not expire"},
		{"reroute to nowhere", Order{Kind: Reroute, Filter: Filter{Job: "x", ArrivedBefore: noon}}, "reroute needs it"},
		{"pause to somewhere", Order{Kind: Pause, Filter: Filter{Job: "x"}, To: "v"}, "belongs to reroute"},
		{"no mode", Order{Kind: SetMode, Filter: Filter{Queue: "a/b"}}, "want normal or backoff"},
		{"mode of a job", Order{Kind: SetMode, Filter: Filter{Queue: "a/b", Job: "x"}, Mode: ModeBackoff}, "is about queues"},
		{"a pause in a mode", Order{Kind: Pause, Filter: Filter{Queue: "a/b"}, Mode: ModeBackoff}, "mode"},
		{"no source", Order{Kind: DisableSource, Filter: Filter{Queue: "a/b"}}, "needs it"},
		{"queue without a virtual MTA", Order{Kind: Pause, Filter: Filter{Queue: "gmail.com"}}, "want domain/vmta"},
		{"over before it began", Order{Kind: Pause, Filter: Filter{Job: "x"}, Expires: noon}, "would have ended"},
		{"a line break", Order{Kind: Pause, Filter: Filter{Job: "x"}, Reason: "a\nb"}, "cannot be shown"},
		{"an escape sequence", Order{Kind: Pause, Filter: Filter{Job: "\x1b[2J"}}, "cannot be shown"},
		{"no UTF-8", Order{Kind: Pause, Filter: Filter{Job: "\xff"}}, "cannot be shown"},
		{"a long reason", Order{Kind: Pause, Filter: Filter{Job: "x"}, Reason: strings.Repeat("x", maxReason+1)}, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.Made = noon
			_, err := s.Add(tc.o)
			if _, ok := errors.AsType[*InvalidError](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Add = %v, want an InvalidError with %q", err, tc.want)
			}
		})
	}
	if len(s.List()) != 0 {
		t.Errorf("in force are %v", s.List())
	}
}

func TestTooManyOrders(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), FileName))
	full := make([]Order, maxOrders)
	for i := range full {
		full[i] = Order{ID: uint64(i + 1), Kind: Pause, Filter: Filter{Job: "x"}, Made: noon}
	}
	if err := s.replace(maxOrders, full); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(Order{Kind: Pause, Filter: Filter{Job: "x"}, Made: noon}); err == nil || !strings.Contains(err.Error(), "end some first") {
		t.Errorf("Add = %v", err)
	}
}

// TestUnreadableFileIsNoEmptyList: what cannot be read stops the node, and is left as it is.
func TestUnreadableFileIsNoEmptyList(t *testing.T) {
	good := `{"format":1,"last_id":1,"orders":[{"id":1,"kind":"pause","filter":{"job":"x"},"actor":"a","made":"2026-11-29T12:00:00Z"}]}`
	for _, tc := range []struct{ name, text string }{
		{"empty", ""},
		{"cut off", good[:len(good)-10]},
		{"something behind", good + "{}"},
		{"another format", strings.Replace(good, `"format":1`, `"format":2`, 1)},
		{"unknown field", strings.Replace(good, `"actor"`, `"auctor"`, 1)},
		{"senseless order", strings.Replace(good, `"job":"x"`, ``, 1)},
		{"number twice", strings.Replace(good, `"last_id":1`, `"last_id":0`, 1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Open = %v, want an error that names the file", err)
			}
			if left, err := os.ReadFile(path); err != nil || string(left) != tc.text {
				t.Errorf("the file holds %q, %v", left, err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := open(t, path); len(s.List()) != 1 {
		t.Errorf("%d orders, want 1", len(s.List()))
	}
}

func TestAnOrderThatIsNotOnDiskIsNotInForce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gone", FileName)) // a folder that is not there
	if _, err := s.Add(Order{Kind: Pause, Filter: Filter{Job: "x"}, Made: noon}); err == nil {
		t.Error("Add says nothing")
	}
	if len(s.List()) != 0 {
		t.Errorf("in force is %v", s.List())
	}
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"gmail.com/mail1", "gmail.com/mail1", true},
		{"Gmail.com/Mail1", "gmail.com/mail1", true},
		{"gmail.com/*", "gmail.com/mail1", true},
		{"gmail.com/*", "xgmail.com/mail1", false},
		{"*/mail1", "gmail.com/mail1", true},
		{"*/mail1", "gmail.com/mail11", false},
		{"*", "", true},
		{"", "a", false},
		{"**", "a", true},
		{"*.rollup/*", "google.rollup/{default}", true},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"*a*a*a*a*a*b", strings.Repeat("a", 5000), false}, // ends, and soon
	} {
		if got := Match(tc.pattern, tc.name); got != tc.want {
			t.Errorf("Match(%q, %.40q) = %t", tc.pattern, tc.name, got)
		}
	}
}

// TestCoversIsTrue: what fits a pattern that is covered fits the one that covers it.
func TestCoversIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern, other := rapid.StringMatching(`[ab*]{0,5}`).Draw(t, "pattern"), rapid.StringMatching(`[ab*]{0,5}`).Draw(t, "other")
		name := rapid.StringMatching(`[ab]{0,6}`).Draw(t, "name")
		if Covers(pattern, other) && Match(other, name) && !Match(pattern, name) {
			t.Fatalf("%q covers %q, and %q fits only the latter", pattern, other, name)
		}
	})
}

func TestWhatAResumeNames(t *testing.T) {
	for _, tc := range []struct {
		f, g Filter
		want bool
	}{
		{Filter{Queue: "*/*"}, Filter{Queue: "gmail.com/*"}, true},
		{Filter{Queue: "gmail.com/mail1"}, Filter{Queue: "gmail.com/*"}, false},
		{Filter{Queue: "*/*"}, Filter{Job: "june"}, false},
		{Filter{Queue: "*/*"}, Filter{Queue: "gmail.com/*", Job: "june"}, false},
		{Filter{Job: "june"}, Filter{Job: "june"}, true},
		{Filter{Job: "june"}, Filter{Job: "june", Queue: "gmail.com/*"}, false},
		{Filter{Job: "june", Queue: "*/*"}, Filter{Job: "june", Queue: "gmail.com/*"}, true},
		{Filter{VMTA: "MAIL1"}, Filter{VMTA: "mail1", ArrivedBefore: noon}, true},
	} {
		if got := tc.f.Covers(tc.g); got != tc.want {
			t.Errorf("%q covers %q: %t", tc.f, tc.g, got)
		}
	}
}

func TestWhatNamesQueues(t *testing.T) {
	for _, tc := range []struct {
		f     Filter
		names bool
		to    string // mail1 may go to
	}{
		{Filter{Queue: "*/*"}, false, "mail1"},
		{Filter{Job: "june"}, false, "mail1"},
		{Filter{Domain: "*"}, false, "mail1"},
		{Filter{Queue: "a.test/*"}, true, "mail1"},
		{Filter{Queue: "*/mail2"}, true, "mail2"},
		{Filter{VMTA: "mail2"}, true, "mail2"},
		{Filter{Domain: "a.test"}, true, "mail1"},
	} {
		if got := tc.f.NamesQueues(); got != tc.names {
			t.Errorf("%q names queues: %t", tc.f, got)
		}
		if !tc.f.MayGoTo(tc.to) || tc.f.MayGoTo("mail1") != (tc.to == "mail1") {
			t.Errorf("what goes to mail1 may meet %q: %t", tc.f, tc.f.MayGoTo("mail1"))
		}
	}
}

func TestOrderInOneLine(t *testing.T) {
	o := Order{Kind: Reroute, Filter: Filter{Queue: "a.test/*", Tenant: "shop"}, To: "mail2", Expires: noon}
	if got, want := o.String(), "reroute queue a.test/* tenant shop to mail2 until 2026-11-29T12:00:00Z"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	o = Order{Kind: DisableSource, Filter: Filter{Queue: "*/*"}, IP: ip}
	if got, want := o.String(), "disable-source 192.0.2.1 queue */*"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, tc := range []struct{ text, want string }{{"gmail.com", "gmail.com/*"}, {"*", "*/*"}, {" a/b ", "a/b"}, {"", ""}} {
		if got := QueuePattern(tc.text); got != tc.want {
			t.Errorf("QueuePattern(%q) = %q, want %q", tc.text, got, tc.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"last_id":1,"orders":[{"id":1,"kind":"pause","filter":{"job":"x"},"actor":"a","made":"2026-11-29T12:00:00Z"}]}`))
	f.Add([]byte(`{"format":1,"last_id":3,"orders":[{"id":3,"kind":"disable-source","filter":{"queue":"*/*"},"ip":"192.0.2.1","made":"2026-11-29T12:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := decode(data)
		if err != nil {
			return
		}
		s := &Store{path: filepath.Join(t.TempDir(), FileName)}
		s.current.Store(&[]Order{})
		if err := s.replace(read.Last, read.Orders); err != nil {
			t.Fatal(err)
		}
		again := open(t, s.path)
		if fmt.Sprint(again.List()) != fmt.Sprint(read.Orders) || again.last != read.Last {
			t.Errorf("read %v, then %v", read.Orders, again.List())
		}
	})
}
