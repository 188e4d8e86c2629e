package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// clientPEM returns a certificate with its key, the key encrypted where there is a password.
func clientPEM(t *testing.T, password string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node.test"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
	if password != "" {
		if block, err = x509.EncryptPEMBlock(rand.Reader, block.Type, der, []byte(password), x509.PEMCipherAES256); err != nil { //nolint:staticcheck // what operators have
			t.Fatal(err)
		}
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) + string(pem.EncodeToMemory(block))
}

// TestDeliveryDirectives: a good value is kept, a bad one is a mistake that says what is wanted.
func TestDeliveryDirectives(t *testing.T) {
	files := memory{
		"/etc/carom/client.pem": clientPEM(t, ""), "/etc/carom/locked.pem": clientPEM(t, "open sesame"), "/etc/carom/empty.pem": "",
	}
	around := "<smtp-pattern-list p>\nreply /x/ mode=backoff\n</smtp-pattern-list>\n<virtual-mta v>\n</virtual-mta>\n"
	for _, tc := range []struct{ name, good, shown, bad, want string }{
		{"smtp-pattern-list", "P", "P", "q", "there is no <smtp-pattern-list q>"},
		{"backoff-retry-after", "1m,2m", "1m,2m", "0", "more than zero"},
		{"retry-after-dns-error", "90s", "1m30s", "soon", "want a time"},
		{"retry-upon-new-mail", "yes", "yes", "x", "yes or no"},
		{"max-retries", "7", "7", "-1", "want a number"},
		{"initial-pts", "60", "1m", "x", "want a time"},
		{"max-pts", "3600", "1h", "0", "more than zero"},
		{"pts-expiration", "6m", "6m", "0", "more than zero"},
		{"backoff-to-normal-after", "2h", "2h", "0", "more than zero"},
		{"backoff-to-normal-after-delivery", "true", "yes", "1h", "yes or no"},
		{"backoff-upon-all-sources-disabled", "true", "yes", "1h", "yes or no"},
		{"reenable-source-ip-after", "1d", "1d", "0", "more than zero"},
		{"reroute-to-virtual-mta", "v", "v", "w", `no virtual-mta or pool "w"`},
		{"backoff-reroute-to-virtual-mta", "V", "V", "w", `no virtual-mta or pool "w"`},
		{"backoff-authority", "config", "config", "me", "want loop or config"},
		{"queue-priority", "100", "100", "101", "from 0 to 100"},
		{"allow-priority-interruption", "no", "no", "x", "yes or no"},
		{"allow-priority-interruption-during-transfer", "yes", "yes", "x", "yes or no"},
		{"block-5xx", "bounce", "bounce", "x", "want retry or bounce"},
		{"bounce-upon-no-mx", "2h", "2h", "soon", "yes, no, never or a time"},
		{"bounce-upon-no-mx", "never", "no", "", "value missing"},
		{"bounce-upon-no-mx", "yes", "yes", "1h 2h", "unexpected"},
		{"bounce-upon-5xx-greeting", "no", "no", "x", "yes or no"},
		{"bounce-upon-transfer-failure", "yes", "yes", "x", "yes or no"},
		{"bounce-upon-pix-transfer-failure", "yes", "yes", "x", "yes or no"},
		{"assume-delivery-upon-data-termination-timeout", "yes", "yes", "x", "yes or no"},
		{"smtp-421-means-mx-unavailable", "yes", "yes", "x", "yes or no"},
		{"smtp-553-means-invalid-mailbox", "no", "no", "x", "yes or no"},
		{"replace-smtp-421-service-response", "yes", "yes", "x", "yes or no"},
		{"max-errors-per-connection", "3", "3", "x", "want a number"},
		{"queue-to", "big.queue", "big.queue", "a b", "unexpected"},
		{"disable-mx-rollup", "yes", "yes", "x", "yes or no"},
		{"mx-connection-attempts", "3", "3", "0", "from 1"},
		{"auth-username", `"a b"`, "a b", "a b", "unexpected"},
		{"auth-password", "x", "[secret]", "a b", "want one string"},
		{"use-unencrypted-plain-auth", "yes", "yes", "x", "yes or no"},
		{"smtp-tls-allow-tlsv1", "yes", "yes", "x", "yes or no"},
		{"smtp-tls-allow-tlsv1.1", "no", "no", "x", "yes or no"},
		{"smtp-tls-allow-tlsv1.2", "no", "no", "x", "yes or no"},
		{"smtp-tls-allow-tlsv1.3", "no", "no", "x", "yes or no"},
		{"smtp-tls-ciphers", "HIGH:AES128-SHA", "HIGH:AES128-SHA", "a b", "unexpected"},
		{"smtp-client-certificate", "client.pem", "/etc/carom/client.pem", "empty.pem", "no certificate with its private key"},
		{"smtp-client-certificate", `locked.pem "open sesame"`, "/etc/carom/locked.pem", "locked.pem wrong", "does not open"},
		{"smtp-client-certificate", `""`, "", "missing.pem", "no such file"},
		{"reuse-ssl-session", "yes", "yes", "x", "yes or no"},
		{"ignore-dsn", "yes", "yes", "x", "yes or no"},
		{"pix-bug-workaround", "no", "no", "x", "yes or no"},
		{"allow-cancel-during-transfer", "no", "no", "x", "yes or no"},
		{"smtp-multiple-line-response-timeout", "1m", "1m", "0", "more than zero"},
		{"discard-as-bounce", "yes", "yes", "x", "yes or no"},
		{"remove-header", "X-Mailer, x-job", "x-mailer,x-job", "a:b", "bad header name"},
		{"remove-header", `""`, "", "a,,b", "empty item"},
		{"disable-acct-records", "d,tq", "d,tq", "r", "want d, b, t or tq"},
	} {
		t.Run(tc.name+" "+tc.good, func(t *testing.T) {
			read := func(value string) (*Config, error) {
				text := around + "<domain a.test>\n" + tc.name + " " + value + "\n</domain>\n"
				c, _, err := parse("/etc/carom/config", []byte(text), files)
				return c, err
			}
			c, err := read(tc.good)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range c.Explain("a.test", "") {
				if s.Name == tc.name && s.Value != tc.shown {
					t.Errorf("%s %s is shown as %q, want %q", tc.name, tc.good, s.Value, tc.shown)
				}
			}
			if _, err := read(tc.bad); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "wrong") {
				t.Errorf("%s %s gives %v, want an error with %q", tc.name, tc.bad, err, tc.want)
			}
		})
	}
}

func TestCiphers(t *testing.T) {
	text := "<domain a.test>\nsmtp-tls-ciphers ECDHE-RSA-AES128-GCM-SHA256:HIGH:!ADH:KRB5-RC4:@STRENGTH\n</domain>\n"
	c, warnings, err := Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Domain("a.test", "").SMTPTLSCiphers.IDs; !slices.Equal(got, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}) {
		t.Errorf("ciphers %v", got)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].Message, "KRB5-RC4") {
		t.Errorf("warnings %v, want one about KRB5-RC4", warnings)
	}
}

func TestPatternList(t *testing.T) {
	files := memory{"/etc/carom/more.txt": "reply /third/ mode=normal\n"}
	text := `<smtp-pattern-list Errors>
reply /421 .* \/ slow/ mode=backoff,backoff-to-normal-after=5m, defer-queue
reply /(?-i)RBL/ disable-source-ip,reenable-after=1h,bounce-rcpt
include more.txt
</smtp-pattern-list>
<smtp-pattern-list errors>
reply // skip-mx,disable-source-ip,reenable-after=never
</smtp-pattern-list>
`
	c, _, err := parse("/etc/carom/config", []byte(text), files)
	if err != nil {
		t.Fatal(err)
	}
	list, ok := c.PatternList("ERRORS")
	if !ok || len(list.Rules) != 4 {
		t.Fatalf("list %+v", list)
	}
	want := []PatternActions{
		{Backoff: true, ToNormalAfter: 5 * time.Minute, ToNormalGiven: true, DeferQueue: true},
		{DisableSource: true, ReenableAfter: time.Hour, ReenableGiven: true, BounceRcpt: true},
		{Normal: true},
		{SkipMX: true, DisableSource: true, ReenableGiven: true},
	}
	for i, r := range list.Rules {
		if r.Actions != want[i] {
			t.Errorf("rule %d %s: %+v, want %+v", i, r, r.Actions, want[i])
		}
	}
	if r := list.Rules[0]; !r.Pattern.MatchString("421 4.7.0 too fast / SLOW down") || r.String() != `/421 .* / slow/` {
		t.Errorf("rule %s", r)
	}
	if r := list.Rules[1]; r.Pattern.MatchString("rbl") {
		t.Error("(?-i) does not force the case")
	}
	if r := list.Rules[3]; !r.Pattern.MatchString("anything") {
		t.Error("// does not match everything")
	}
}

func TestPatternListMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"reply /x/ mode=backoff,mode=normal":                              "exclude each other",
		"reply /x/ skip-mx,bounce-queue":                                  "exclude each other",
		"reply /x/ reenable-after=1h":                                     "needs disable-source-ip",
		"reply /x/ reenable-after=1h,disable-source-ip":                   "needs disable-source-ip",
		"reply /x/ disable-source-ip,reenable-after=1h,reenable-after=2h": "a second reenable-after",
		"reply /x/ backoff-to-normal-after=1h":                            "needs mode=backoff",
		"reply /x/ mode=backoff,backoff-to-normal-after=0":                "more than zero",
		"reply /x/ explode":                                               "bad action",
		"reply /x/ mode=x":                                                "bad action",
		"reply /x/":                                                       "value missing",
		"reply x mode=backoff":                                            "want /PATTERN/",
		"reply /x mode=backoff":                                           "no closing /",
		"reply /(/ skip-mx":                                               "bad pattern",
		"answer /x/ skip-mx":                                              "unknown directive",
	} {
		_, _, err := Parse("test", fmt.Appendf(nil, "<smtp-pattern-list p>\n%s\n</smtp-pattern-list>\n", line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want an error with %q", line, err, want)
		}
	}
}

func TestRollups(t *testing.T) {
	text := `<mx-rollup-list>
mx mx-a.yahoo.test yahoo.rollup
mx mx-b.yahoo.test yahoo.rollup
mx *.google.test google.rollup rollup-by-ip
</mx-rollup-list>
<mx-rollup-list>
mx *.smart.test smart.rollup
</mx-rollup-list>
<domain smart.rollup>
smtp-hosts [127.0.0.1]
</domain>
`
	c, _, err := Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for hosts, want := range map[string]string{
		"mx-a.yahoo.test":                            "",
		"mx-b.yahoo.test mx-a.yahoo.test":            "yahoo.rollup",
		"mx-b.yahoo.test other.test mx-a.yahoo.test": "yahoo.rollup",
		"other.test alt1.google.test":                "google.rollup",
		"google.test":                                "",
		"mx.smart.test":                              "smart.rollup",
		"":                                           "",
		"mx-b.yahoo.test mx-a.yahoo.test mx1.google.test": "yahoo.rollup",
	} {
		got := ""
		if r, ok := c.Rollup(strings.Fields(hosts)); ok {
			got = r.Name
		}
		if got != want {
			t.Errorf("hosts %q join %q, want %q", hosts, got, want)
		}
	}
	if r, ok := c.RollupNamed("google.rollup"); !ok || !r.ByIP || r.Exact() || !r.Takes("x.google.test") || r.Takes("x.test") {
		t.Errorf("google.rollup: %+v", r)
	}
	for line, want := range map[string]string{
		"mx a.test b.rollup x": "unexpected", "mx a.test b": "ends in .rollup", "mx a.test .rollup": "ends in .rollup", "mx a.test": "not enough",
		"mx *.a.test b.rollup": "needs rollup-by-ip", "mx [10/8] b.rollup": "bad MX pattern", "mx a..b b.rollup": "bad domain pattern",
	} {
		_, _, err := Parse("test", fmt.Appendf(nil, "<mx-rollup-list>\n%s\n</mx-rollup-list>\n", line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want an error with %q", line, err, want)
		}
	}
}

// TestNotifyIsAnnounced: an operator who asks for mails is told that there are none.
func TestNotifyIsAnnounced(t *testing.T) {
	_, warnings, err := Parse("test", []byte("<domain *>\nbackoff-notify ops@a.test\ndisabled-source-ip-notify ops@a.test\n</domain>\n"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, w := range warnings {
		name, _, _ := strings.Cut(w.Message, ":")
		names[name] = strings.Contains(w.Message, "annotations and the log")
	}
	if want := map[string]bool{"backoff-notify": true, "disabled-source-ip-notify": true}; !maps.Equal(names, want) {
		t.Errorf("warnings %v", warnings)
	}
}
