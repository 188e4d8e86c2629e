package app

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/sender/deliver"
	"carom/sender/spool"
)

func TestTagSaysWhereRecipientsGo(t *testing.T) {
	expires := time.UnixMicro(1_800_000_000_000_001).UTC()
	for _, tc := range []struct {
		name      string
		addresses []string
		domains   []string
	}{
		{"one", []string{"ann@A.test"}, []string{"a.test"}},
		{"several of one domain", []string{"ann@a.test", "bob@a.test"}, []string{"a.test"}},
		{"several domains", []string{"ann@a.test", "bob@b.test", "cid@a.test"}, []string{"a.test", "b.test"}},
		{"no domain", []string{"postmaster"}, []string{""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := &spool.Envelope{VMTA: "mta1", Job: "j", Tenant: "shop", Expires: expires, Attrs: map[string]string{
				attrPriority: "70", deliver.AttrSchedule: "2030-01-01 00:00:00+0000 / 2030-01-02 00:00:00+0000",
			}}
			for _, a := range tc.addresses {
				e.Recipients = append(e.Recipients, spool.Recipient{Address: a})
			}
			want := tagOf(e)
			if want.Priority != 70 || len(want.Windows) != 1 {
				t.Errorf("priority %d, windows %v", want.Priority, want.Windows)
			}
			if diff := cmp.Diff(tc.domains, want.Domains); diff != "" {
				t.Errorf("domains (-want +got):\n%s", diff)
			}
			var r tagReader
			got, err := r.decode(want.encode(), len(e.Recipients))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for i, a := range tc.addresses {
				_, domain, _ := strings.Cut(strings.ToLower(a), "@")
				if d := got.domain(uint32(i)); d != domain {
					t.Errorf("domain of %s is %q", a, d)
				}
			}
			if _, err := r.decode(want.encode(), 99); err == nil && len(tc.domains) > 1 {
				t.Error("a tag of another message was taken")
			}
		})
	}
}

func TestTagThatIsTooLong(t *testing.T) {
	e := &spool.Envelope{}
	for i := range 500 {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("x@domain%d.test", i)})
	}
	tg := tagOf(e)
	if b := tg.encode(); b != nil {
		t.Errorf("tag of %d bytes", len(b))
	}
	var r tagReader
	if _, err := r.decode(nil, 500); err == nil {
		t.Error("no tag is taken for one")
	}
}

func FuzzTag(f *testing.F) {
	one := tag{VMTA: "v", Job: "j", Tenant: "t", Priority: 9, Domains: []string{"a.test"}}
	two := tag{Expires: time.UnixMicro(5).UTC(), Domains: []string{"a.test", "b.test"}, Of: []uint32{0, 1, 1}}
	f.Add(one.encode(), 1)
	f.Add(two.encode(), 3)
	f.Add([]byte{tagVersion, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 1)
	f.Fuzz(func(t *testing.T, b []byte, recipients int) {
		var r tagReader
		got, err := r.decode(b, recipients)
		if err != nil || len(b) > maxTag {
			return
		}
		for i := range got.Of {
			got.domain(uint32(i))
		}
		again, err := r.decode(got.encode(), recipients)
		if err != nil {
			t.Fatalf("%x: %+v: %v", b, got, err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%x (-first +again):\n%s", b, diff)
		}
		if !bytes.Equal(got.encode(), again.encode()) {
			t.Errorf("%x: encoded differently", b)
		}
	})
}
