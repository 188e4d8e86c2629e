package deliver

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

func TestURLHosts(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"plain", "\r\nsee http://A.test/x and https://b.test.", "a.test b.test"},
		{"with port and user", "\r\nhttps://me@c.test:8443/?q=1", "c.test"},
		{"HTML", "Content-Type: text/html\r\n\r\n<a href='https://d.test'>x</a>", "d.test"},
		{"not in an attachment", "Content-Type: application/pdf\r\n\r\nhttps://e.test/", ""},
		{"no host", "\r\nfile:///etc/hosts http://localhost/ http://" + strings.Repeat("x", 300) + ".test/", ""},
		{"nothing", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := strings.Join(slices.Sorted(maps.Keys(urlHosts([]byte("From: a@b.test\r\n"+tc.content)))), " "); got != tc.want {
				t.Errorf("hosts %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzURLHosts(f *testing.F) {
	f.Add([]byte("From: a@b.test\r\n\r\nsee http://A.test/x"))
	f.Add([]byte("Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPGEgaHJlZj0iaHR0cHM6Ly93d3cuU2FsZS50ZXN0L3giPmdvPC9hPg=="))
	f.Fuzz(func(t *testing.T, content []byte) {
		for name := range urlHosts(content) {
			if name == "" || len(name) > maxHostName || !strings.Contains(name, ".") {
				t.Errorf("host %q of %q", name, content)
			}
		}
	})
}

// A refusal for a URL does not say which one. From it on for an hour events name the hosts, those of
// mail that is taken too.
func TestRefusalForAURLNamesHosts(t *testing.T) {
	var refused atomic.Bool
	p := newPeer(t, func(command string) string {
		if command == "DOT" && !refused.Swap(true) {
			return "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail containing one of your URL domains. To protect our users from spam, mail with the URL has been temporarily rate limited."
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\n max-smtp-out 1\n</domain>\n", names{mx: "mx1.google.com", addr: p.addr.Addr()})
	b.content = "From: a@shop.test\r\n\r\nhttps://www.sale.test/x https://cdn.test/y\r\n"
	b.put(time.Hour, "ann@a.test")
	b.start()
	e := b.events(1)[0]
	if e.Kind != event.Deferred || e.Scope != taxonomy.ScopeURL || strings.Join(e.URLHosts, " ") != "cdn.test www.sale.test" {
		t.Fatalf("%s, scope %q, hosts %v; want deferred for a URL with both hosts", e.Kind, e.Scope, e.URLHosts)
	}
	b.content = "From: a@shop.test\r\n\r\nhttps://cdn.test/z\r\n"
	b.put(time.Hour, "bob@a.test")
	if e := b.events(2)[1]; e.Kind != event.Delivered || strings.Join(e.URLHosts, " ") != "cdn.test" {
		t.Errorf("%s with hosts %v, want delivered with cdn.test", e.Kind, e.URLHosts)
	}
}

func TestURLsAreNotNamedForEver(t *testing.T) {
	var u urlRefusals
	now := time.Now()
	if u.watches("google", now) {
		t.Error("watched before any refusal")
	}
	u.refused("google", now)
	for _, tc := range []struct {
		provider string
		after    time.Duration
		want     bool
	}{{"google", 0, true}, {"yahoo", 0, false}, {"google", urlWatch - 1, true}, {"google", urlWatch, false}} {
		if got := u.watches(tc.provider, now.Add(tc.after)); got != tc.want {
			t.Errorf("%s after %s: %t, want %t", tc.provider, tc.after, got, tc.want)
		}
	}
	if u.any.Load() {
		t.Error("it looks on although nothing is watched")
	}
}
