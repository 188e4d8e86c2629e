package deliver

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/google/go-cmp/cmp"

	"carom/sender/config"
	"carom/sender/spool"
)

// keyFolder is a folder of key files and what DNS says of them.
type keyFolder struct {
	dir  string
	mu   sync.Mutex
	keys map[string]crypto.Signer // by file name
}

func newKeyFolder(t *testing.T) *keyFolder {
	t.Helper()
	return &keyFolder{dir: t.TempDir(), keys: map[string]crypto.Signer{}}
}

func newRSA(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEd25519(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// put puts a key into a file by renaming, as operators should.
func (k *keyFolder) put(t *testing.T, name string, key crypto.Signer) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	k.keys[name] = key
}

func (k *keyFolder) write(t *testing.T, name string, data []byte) {
	t.Helper()
	file := filepath.Join(k.dir, name)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// signer returns the signer of a queue of a.test over the vmta.
func (k *keyFolder) signer(t *testing.T, vmta, text string, logger *slog.Logger) *signer {
	t.Helper()
	c, _, err := config.Parse(filepath.Join(k.dir, "config"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	signing, err := newSigning(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	v, ok := c.VMTA(vmta)
	if !ok {
		t.Fatalf("no vmta %s", vmta)
	}
	s, err := signing.signer(v, c.Domain("a.test", vmta).DKIM)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// verify returns "selector domain" of each signature in front of the message, the upper one first,
// after go-msgauth has verified them. Selectors are names of files.
func (k *keyFolder) verify(t *testing.T, message []byte) []string {
	t.Helper()
	var selectors []string
	found, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			k.mu.Lock() // one goroutine a signature
			defer k.mu.Unlock()
			selector, _, _ := strings.Cut(name, "._domainkey.")
			selectors = append(selectors, selector)
			switch public := k.keys[selector].Public().(type) {
			case *rsa.PublicKey:
				der, err := x509.MarshalPKIXPublicKey(public)
				return []string{"v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)}, err
			case ed25519.PublicKey:
				return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}, nil
			}
			return nil, errors.New("no such key")
		},
	})
	if err != nil {
		t.Fatalf("verify: %v\n%s", err, message)
	}
	var domains []string
	for _, v := range found {
		if v.Err != nil {
			t.Errorf("verify: %v\n%s", v.Err, message)
		}
		domains = append(domains, v.Domain)
	}
	slices.Sort(selectors)
	return append(domains, selectors...)
}

const signable = "Received: by x\r\nFrom: News <news@mail.shop.test>\r\nTo: ann@a.test\r\nSubject: hello\r\nX-Job: 7\r\n\r\nA  text\r\n.\r\n\r\n"

func signableMail(attrs map[string]string) *mail {
	return &mail{envelope: &spool.Envelope{Attrs: attrs}, content: []byte(signable)}
}

func TestSign(t *testing.T) {
	keys := newKeyFolder(t)
	for _, name := range []string{"own", "pool", "global", "listed"} {
		keys.put(t, name, newRSA(t))
	}
	for _, name := range []string{"ed", "any"} {
		keys.put(t, name, newEd25519(t))
	}
	const base = `
domain-key global,shop.test,global
domain-key ed,shop.test,ed
domain-key any,*,any
<domain-key-list Customers>
domain-key listed,shop.test,listed
</domain-key-list>
<virtual-mta own>
smtp-source-host 127.0.0.1 own.test
domain-key own,shop.test,own
</virtual-mta>
<virtual-mta pooled>
smtp-source-host 127.0.0.1 pooled.test
</virtual-mta>
<virtual-mta-pool pool>
virtual-mta own
virtual-mta pooled
domain-key pool,mail.shop.test,pool
</virtual-mta-pool>
<domain *>
%s
</domain>
`
	options := func(s string) map[string]string { return map[string]string{AttrDKIMOptions: s} }
	for _, tc := range []struct {
		name, vmta, settings string
		attrs                map[string]string
		want                 []string // domains, then selectors in order of the alphabet
		holds                string   // in the signatures
	}{
		{name: "off", settings: "dkim-headers X-Job"},
		{name: "global key", settings: "dkim-sign yes", want: []string{"shop.test", "global"}, holds: "c=relaxed/relaxed"},
		{name: "key of the vmta first", vmta: "own", settings: "dkim-sign yes", want: []string{"shop.test", "own"}},
		{name: "then of its pool", vmta: "pooled", settings: "dkim-sign yes", want: []string{"mail.shop.test", "pool"}},
		{name: "key of any domain", settings: "dkim-sign yes\ndkim-identity me@other.test", want: []string{"other.test", "any"}, holds: "i=me@other.test;"},
		{name: "fallback", settings: "dkim-sign yes\ndkim-algorithm rsa-sha256\ndkim-identity me@other.test\ndkim-identity-fallback @x.shop.test", want: []string{"shop.test", "global"}, holds: "i=@x.shop.test;"},
		{name: "no key", settings: "dkim-sign yes\ndkim-algorithm rsa-sha256\ndkim-identity me@other.test"},
		{name: "algorithm", settings: "dkim-sign yes\ndkim-algorithm ed25519-sha256", want: []string{"shop.test", "ed"}, holds: "a=ed25519-sha256;"},
		{name: "rsa-sha1 is rsa-sha256", settings: "dkim-sign yes\ndkim-algorithm rsa-sha1", want: []string{"shop.test", "global"}, holds: "a=rsa-sha256;"},
		{name: "canonicalization", settings: "dkim-sign yes\ndkim-body-canon simple", want: []string{"shop.test", "global"}, holds: "c=relaxed/simple;"},
		{name: "canonicalization of the header", settings: "dkim-sign yes\ndkim-headers-canon simple", want: []string{"shop.test", "global"}, holds: "c=simple/relaxed;"},
		{name: "headers", settings: "dkim-sign yes\ndkim-headers /^x-/", want: []string{"shop.test", "global"}, holds: ":x-job;"},
		{name: "closed headers", settings: "dkim-sign yes\ndkim-disallow-adding-headers subject", want: []string{"shop.test", "global"}, holds: "Subject:Subject"},
		{name: "timestamp and expiry", settings: "dkim-sign yes\ndkim-add-timestamp yes\ndkim-expire-after 1h", want: []string{"shop.test", "global"}, holds: "t=946684800; x=946688400;"},
		{name: "query method", settings: "dkim-sign yes\ndkim-query-method dns/txt", want: []string{"shop.test", "global"}, holds: "q=dns/txt;"},
		{
			name: "two signatures", settings: "dkim-sign yes\nsecond-dkim-sign yes\nsecond-dkim-algorithm ed25519-sha256",
			want: []string{"shop.test", "shop.test", "ed", "global"},
		},
		{
			name: "second signature of another domain", settings: "dkim-sign yes\nsecond-dkim-sign yes\nsecond-dkim-identity @esp.test\nsecond-dkim-headers-canon simple",
			want: []string{"shop.test", "esp.test", "any", "global"}, holds: "i=@esp.test;",
		},
		{name: "second signature alone", settings: "second-dkim-sign yes", want: []string{"shop.test", "global"}},
		{name: "not asked", settings: "dkim-sign if-x-dkim-options-present"},
		{name: "asked with nothing", settings: "dkim-sign if-x-dkim-options-present", attrs: options(""), want: []string{"shop.test", "global"}},
		{name: "asked for a selector", settings: "dkim-sign if-x-dkim-options-present", attrs: options("s=ED"), want: []string{"shop.test", "ed"}},
		{name: "asked for a list", settings: "dkim-sign yes", attrs: options("key-list=customers"), want: []string{"shop.test", "listed"}},
		{name: "asked for a key that the list lacks", settings: "dkim-sign yes", attrs: options("key-list=customers; s=global")},
		{name: "asked for a list that is none", settings: "dkim-sign yes", attrs: options("key-list=none")},
		{name: "asked badly", settings: "dkim-sign yes", attrs: options("s=a b")},
		{
			name: "asked for the first only", settings: "dkim-sign yes\nsecond-dkim-sign yes", attrs: options("d=other.test; i=x@y.other.test"),
			want: []string{"other.test", "shop.test", "any", "global"}, holds: "i=x@y.other.test;",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := keys.signer(t, tc.vmta, fmt.Sprintf(base, tc.settings), slog.New(slog.DiscardHandler))
			m := signableMail(tc.attrs)
			synctest.Test(t, func(t *testing.T) { // whose clock stands at the beginning of 2000
				header, domains := s.sign(m)
				if tc.want == nil {
					if len(header)+len(domains) > 0 {
						t.Errorf("signed by %v:\n%s", domains, header)
					}
					return
				}
				flat := strings.NewReplacer("\r\n\t", " ", "\r\n", " ").Replace(string(header))
				if !strings.Contains(flat, tc.holds) {
					t.Errorf("no %q in %s", tc.holds, header)
				}
				n := len(tc.want) / 2
				if diff := cmp.Diff(slices.Compact(slices.Clone(tc.want[:n])), domains); diff != "" {
					t.Errorf("domains (-want +got):\n%s", diff)
				}
				if strings.Contains(tc.holds, " x=") {
					return // long expired
				}
				if diff := cmp.Diff(tc.want, keys.verify(t, slices.Concat(header, m.content))); diff != "" {
					t.Errorf("signatures (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestSignersAreShared: thousands of queues with the same directives need one signer.
func TestSignersAreShared(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "k", newEd25519(t))
	s := keys.signer(t, "", "domain-key k,*,k\n<domain *>\ndkim-sign yes\nsecond-dkim-sign yes\n</domain>\n"+
		"<virtual-mta v>\nsmtp-source-host 127.0.0.1 v.test\n</virtual-mta>\n<domain other.test>\ndkim-headers X-Job\n</domain>\n", slog.New(slog.DiscardHandler))
	v, _ := s.config.VMTA("v")
	again, err := s.signing.signer(v, s.config.Domain("b.test", "v").DKIM)
	if err != nil || again.first != s.first || s.second != s.first {
		t.Errorf("another signer for the same directives (%v)", err)
	}
	other, err := s.signing.signer(v, s.config.Domain("other.test", "v").DKIM)
	if err != nil || other.first == s.first || other.second != s.second || len(s.keys) != 1 {
		t.Errorf("%d lists of keys, other signer %v (%v)", len(s.keys), other.first == s.first, err)
	}
}

// TestOneSignatureForSeveralTransactions of a message that follow each other.
func TestOneSignatureForSeveralTransactions(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "k", newEd25519(t))
	s := keys.signer(t, "", "domain-key k,*,k\n<domain *>\ndkim-sign yes\ndkim-add-timestamp yes\n</domain>\n", slog.New(slog.DiscardHandler))
	synctest.Test(t, func(t *testing.T) {
		m := signableMail(nil)
		first, _ := s.sign(m)
		time.Sleep(signaturesLife - time.Millisecond)
		if second, domains := s.sign(m); &second[0] != &first[0] || len(domains) != 1 {
			t.Errorf("signed again, %v", domains)
		}
		time.Sleep(time.Millisecond)
		third, _ := s.sign(m)
		if bytes.Equal(third, first) {
			t.Error("the old signature serves for too long")
		}
		keys.verify(t, slices.Concat(third, m.content))
	})
}

// complaints returns a logger and what was logged to it as "level message".
func complaints() (*slog.Logger, func() []string) {
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return a
		}
		return slog.Attr{}
	}}))
	return logger, func() []string {
		defer out.Reset()
		return slices.Collect(strings.Lines(out.String()))
	}
}

func TestKeyFileReplaced(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "k", newRSA(t))
	keys.put(t, "other", newRSA(t))
	logger, logged := complaints()
	s := keys.signer(t, "", "domain-key k,shop.test,k\ndomain-key other,other.test,other\n<domain *>\ndkim-sign yes\n</domain>\n", logger)
	const (
		replaced = "level=INFO msg=\"DKIM key was replaced\"\n"
		unusable = "level=ERROR msg=\"DKIM key file cannot be used, the old key signs\"\n"
	)
	synctest.Test(t, func(t *testing.T) {
		step := func(what string, want ...string) {
			t.Helper()
			for range 2 { // the second time nothing is new
				m := signableMail(nil)
				header, _ := s.sign(m)
				if got := keys.verify(t, slices.Concat(header, m.content)); len(got) != 2 {
					t.Errorf("%s: signatures %v", what, got)
				}
				if diff := cmp.Diff(want, logged()); diff != "" {
					t.Errorf("%s: log (-want +got):\n%s", what, diff)
				}
				want = nil
				time.Sleep(keyFileInterval)
			}
		}
		step("first")
		keys.put(t, "k", newRSA(t))
		step("another key", replaced)
		keys.put(t, "k", newEd25519(t))
		step("a key of another kind", replaced)
		keys.write(t, "k", []byte("no key"))
		step("no key", unusable)
		keys.write(t, "k", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		step("an encrypted key", unusable)
		if err := os.Remove(filepath.Join(keys.dir, "k")); err != nil {
			t.Fatal(err)
		}
		step("no file", unusable)
		keys.put(t, "k", keys.keys["k"])
		step("the same key again")
		keys.put(t, "k", newRSA(t))
		step("a key after all", replaced)
	})
}

// TestKeyFileThatMayNotBeRead: after the node gave up its privileges a file may be out of reach.
// As long as nothing says that it has changed it is not touched.
func TestKeyFileThatMayNotBeRead(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "k", newEd25519(t))
	file := filepath.Join(keys.dir, "k")
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	logger, logged := complaints()
	s := keys.signer(t, "", "domain-key k,shop.test,k\n<domain *>\ndkim-sign yes\n</domain>\n", logger)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	// Another content in the same file, of the same length and time, is never seen.
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), int(before.Size())), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Time{}, before.ModTime()); err != nil {
		t.Fatal(err)
	}
	m := signableMail(nil)
	header, _ := s.sign(m)
	keys.verify(t, slices.Concat(header, m.content))
	if lines := logged(); len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
}

// TestKeysReplacedWhileSigning: goroutines sign while files change; every signature is whole.
func TestKeysReplacedWhileSigning(t *testing.T) {
	keys := newKeyFolder(t)
	all := map[string]crypto.Signer{}
	for i := range 4 {
		all[fmt.Sprint(i)] = newEd25519(t)
	}
	keys.put(t, "k", all["0"])
	s := keys.signer(t, "", "domain-key k,shop.test,k\n<domain *>\ndkim-sign yes\n</domain>\n", slog.New(slog.DiscardHandler))
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for range 50 {
				m := signableMail(nil)
				header, _ := s.sign(m)
				whole := slices.ContainsFunc(slices.Collect(maps.Values(all)), func(key crypto.Signer) bool {
					found, err := dkim.VerifyWithOptions(bytes.NewReader(slices.Concat(header, m.content)), &dkim.VerifyOptions{
						LookupTXT: func(string) ([]string, error) {
							return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))}, nil
						},
					})
					return err == nil && len(found) == 1 && found[0].Err == nil
				})
				if !whole {
					t.Errorf("no key verifies\n%s", header)
				}
				s.files[filepath.Join(keys.dir, "k")].next.Store(0) // look again at once
			}
		})
	}
	for i := range 100 {
		keys.put(t, "k", all[fmt.Sprint(i%len(all))])
	}
	done.Wait()
}

// TestBadOptionsAreLoggedOnce a minute: one customer may send a million of them.
func TestBadOptionsAreLoggedOnce(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "k", newEd25519(t))
	logger, logged := complaints()
	s := keys.signer(t, "", "domain-key k,*,k\n<domain *>\ndkim-sign yes\n</domain>\n", logger)
	synctest.Test(t, func(t *testing.T) {
		for _, want := range []int{1, 0, 0} {
			s.sign(signableMail(map[string]string{AttrDKIMOptions: "s"}))
			if lines := logged(); len(lines) != want {
				t.Errorf("logged %q, want %d lines", lines, want)
			}
		}
		time.Sleep(complaintEvery)
		s.sign(signableMail(map[string]string{AttrDKIMOptions: "s"}))
		if lines := logged(); len(lines) != 1 || !strings.HasPrefix(lines[0], "level=WARN") {
			t.Errorf("logged %q after a minute", lines)
		}
	})
}

// TestSignaturesAtTheReceiver: what arrives over SMTP, with dots doubled on the way, verifies.
func TestSignaturesAtTheReceiver(t *testing.T) {
	keys := newKeyFolder(t)
	keys.put(t, "r", newRSA(t))
	keys.put(t, "e", newEd25519(t))
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+fmt.Sprintf("domain-key r,shop.test,%s/r\ndomain-key e,shop.test,%[1]s/e\n<domain *>\n"+
		"dkim-sign yes\nsecond-dkim-sign yes\nsecond-dkim-algorithm ed25519-sha256\nsecond-dkim-body-canon simple\n</domain>\n", keys.dir),
		names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	if diff := cmp.Diff([]string{"shop.test"}, b.events(1)[0].DKIMDomains); diff != "" {
		t.Errorf("domains in the event (-want +got):\n%s", diff)
	}
	_, message, _ := strings.Cut(p.received()[0], "RCPT TO:")
	_, message, _ = strings.Cut(message, "\n")
	message = strings.ReplaceAll(strings.ReplaceAll(message, "\n..", "\n."), "\n", "\r\n")
	if diff := cmp.Diff([]string{"shop.test", "shop.test", "e", "r"}, keys.verify(t, []byte(message))); diff != "" {
		t.Errorf("signatures (-want +got):\n%s", diff)
	}
}

// FuzzDirectives: a value that the configuration accepts makes a signer, and its signatures verify.
func FuzzDirectives(f *testing.F) {
	names := []string{"identity", "identity-fallback", "headers", "disallow-adding-headers", "query-method", "expire-after"}
	for i, values := range [][]string{
		{`"o;x=y"@Sub.Shop.test`, "@ü.test", "a@b..", "@-"},
		{"@shop.test", "@a b"},
		{`X-Job /^x-(a,b)/,"To: Subject"`, `/\//`, "//", "/(?i)x/", "From,from", "Received,/./"},
		{"Subject,X-None", "bcc"},
		{"dns/txt", "dns/txt:x"},
		{"1", "never", "300w"},
	} {
		for _, v := range values {
			f.Add(uint8(i), v)
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, directive uint8, value string) {
		c, _, err := config.Parse("config", fmt.Appendf(nil, "<domain *>\ndkim-sign yes\ndkim-%s %s\n</domain>\n", names[int(directive)%len(names)], value))
		if err != nil {
			return
		}
		signing, err := newSigning(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		file, err := newKeyFile("", key, signing.logger)
		if err != nil {
			t.Fatal(err)
		}
		signing.files[""] = file
		signer, err := signing.signer(&config.VMTA{DomainKeys: []config.DomainKey{{Selector: "k", Domain: "*"}}}, c.Domain("a.test", "").DKIM)
		if err != nil {
			t.Fatalf("%q is accepted, but: %v", value, err)
		}
		m := signableMail(nil)
		header, _ := signer.sign(m)
		if strings.Contains(string(header), "q=") && !strings.Contains(string(header), "q=dns/txt;") {
			return // a verifier knows no other
		}
		keys := keyFolder{keys: map[string]crypto.Signer{"k": key}}
		if len(keys.verify(t, slices.Concat(header, m.content))) != 2 {
			t.Errorf("%q: not signed", value)
		}
	})
}
