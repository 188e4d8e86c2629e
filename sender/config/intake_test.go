package config

import (
	"maps"
	"strconv"
	"strings"
	"testing"
)

// TestIntakeDirectives checks values of the directives by which mail comes in: what is accepted
// and what is said of what is not.
func TestIntakeDirectives(t *testing.T) {
	source := func(s string) string { return "<source 0/0>\n" + s + "\n</source>\n" }
	user := func(s string) string { return "<smtp-user ann>\n" + s + "\n</smtp-user>\n" }
	stream := func(s string) string { return "<event-stream " + s + ">\n</event-stream>\n" }
	listener := func(s string) string { return "<smtp-listener 127.0.0.1:25>\n" + s + "\n</smtp-listener>\n" }
	for _, tc := range []struct{ name, conf, wrong string }{
		{"allow-chunking", source("allow-chunking no\nallow-smtputf8 no\nfix-bare-newline yes"), ""},
		{"allow-chunking", source("allow-chunking never"), "want yes or no"},
		{"event-stream", stream("clickhouse://ch1:9440,ch2:9440,[::1]:9440/carom?secure=true"), ""},
		{"event-stream", stream("clickhouse://ch1,ch2"), ""},
		{"event-stream", stream("http://ch1:8123,ch2:x"), "bad address"},
		{"event-stream", stream("http://ch1:8123,"), "bad address"},
		{"event-stream", stream("ftp://ch1:21,ch2:21"), "bad address"},
		{"event-stream", stream("http://u:p,q@ch1:8123"), "must not hold a user or password"},
		{"fix-bare-newline", source("fix-bare-newline 1"), "want yes or no"},
		{"smtp-command-timeout", source("smtp-command-timeout 5m\nsmtp-data-timeout 1h"), ""},
		{"smtp-command-timeout", source("smtp-command-timeout 0"), "want more than zero"},
		{"smtp-data-timeout", source("smtp-data-timeout soon"), "bad time"},
		{"smtp-max-auth-failure-rate", source("smtp-max-auth-failure-rate 3/5m"), ""},
		{"smtp-max-auth-failure-rate", source("smtp-max-auth-failure-rate 3"), "bad rate"},
		{"allow-auth", source("allow-auth no\nallow-starttls yes\nrequire-starttls-before-auth yes\nallow-unencrypted-plain-auth yes"), ""},
		{"allow-starttls", source("allow-starttls maybe"), "want yes or no"},
		{"authentication-method", user("authentication-method Certificate\ntls-certificate keys/cert.pem"), ""},
		{"authentication-method", user("authentication-method system\npassword x"), "system is not supported"},
		{"authentication-method", user("authentication-method certificate"), "has no tls-certificate"},
		{"authentication-method", user("authentication-method password"), "has no password"},
		{"tls-certificate", user("authentication-method certificate\ntls-certificate keys/rsa.pem"), "no PEM certificate"},
		{"tls-certificate", listener("tls-certificate keys/pair.pem\nimmediate-tls yes"), ""},
		{"tls-certificate", listener("tls-certificate keys/locked.pem secret"), ""},
		{"tls-certificate", listener("tls-certificate keys/locked.pem wrong"), "the password does not open"},
		{"tls-certificate", listener("tls-certificate keys/cert.pem"), "no certificate with its private key"},
		{"tls-certificate", listener("tls-certificate keys/none.pem"), "no such file"},
		{"immediate-tls", listener("immediate-tls yes"), "needs a tls-certificate"},
		{"immediate-tls", "smtp-server-tls-certificate keys/pair.pem\n" + listener("immediate-tls yes"), ""},
		{"tls-allow", listener("tls-certificate keys/pair.pem\ntls-allow-tlsv1.2 no\ntls-allow-tlsv1.3 no"), "no version of TLS"},
		{"tls-ciphers", listener("tls-ciphers HIGH:!ADH:@STRENGTH"), ""},
		{"tls-ciphers", listener("tls-ciphers ECDHE-RSA-CHACHA20-POLY1305:AES128-SHA:DES-CBC3-SHA"), ""},
		{"tls-ciphers", listener("tls-ciphers \"\" more"), "unexpected"},
		{"smtp-server-tls", "smtp-server-tls-ciphers AES256-GCM-SHA384\nsmtp-server-tls-ca-file keys/cert.pem\nsmtp-server-tls-allow-tlsv1 yes", ""},
		{"smtp-server-tls", "smtp-server-tls-ca-file keys/rsa.pem", "no PEM certificate"},
		{"process-x-schedule", source("process-x-schedule yes\nretain-x-schedule yes\nprocess-x-dkim-options yes\nretain-x-dkim-options no"), ""},
		{"process-x-schedule", source("process-x-schedule daily"), "want yes or no"},
		{"jobid-prefix", source("jobid-prefix {auth}\njobid-prefix \"\"\njobid-prefix a-"), ""},
		{"jobid-prefix", source("jobid-prefix \"a b\""), "no white space"},
		{"remove-header", source("remove-header X-A, X-B\nremove-received-headers yes\nadd-x-virtual-mta-header yes\nallow-empty-x-virtual-mta yes"), ""},
		{"remove-header", source("remove-header \"X A\""), "unexpected"},
		{"auto-qualify-domain", "domain-suffix Shop.test\n" + source("auto-qualify-domain no"), ""},
		{"domain-suffix", "domain-suffix a@b", "bad host name"},
		{"invalid-virtual-mta-fallback", "invalid-virtual-mta-fallback {default}\n" + source("reject-invalid-virtual-mta no"), ""},
		{"invalid-virtual-mta-fallback", "\ninvalid-virtual-mta-fallback none", "config:2:30: invalid-virtual-mta-fallback: there is no virtual-mta or pool"},
		{"pattern-list", "<pattern-list p>\n* virtual-mta={default},recipient-priority=70\n</pattern-list>\n" + source("pattern-list P"), ""},
		{"pattern-list", source("pattern-list p"), "there is no <pattern-list p>"},
		{"pattern-list", "<pattern-list p>\nmail-from /x/\n</pattern-list>", "result missing"},
		{"pattern-list", "<pattern-list p>\nmail-from x virtual-mta={default}\n</pattern-list>", "want a /pattern/"},
		{"pattern-list", "<pattern-list p>\n* recipient-priority=101\n</pattern-list>", "want 0 to 100"},
		{"pattern-list", "<pattern-list p>\n* virtual-mta=none\n</pattern-list>", "there is no virtual-mta"},
		{"pattern-list", "<pattern-list p>\n* call-to:q\n</pattern-list>", "there is no <pattern-list q>"},
		{"pattern-list", "<pattern-list p>\n* call-to: q\n</pattern-list>\n<pattern-list q>\nmail-from /x/ <pattern-list>\n* call-to:p\n</pattern-list>\n</pattern-list>", "leads back to itself"},
		{"pattern-list", "<pattern-list p>\n<pattern-list>\n* virtual-mta={default}\n</pattern-list>\n</pattern-list>", "behind no pattern"},
		{"pattern-list", "<pattern-list p>\nheader X-A /(?=x)/ virtual-mta={default}\n</pattern-list>", "not supported"},
		{"virtual-mta-pool", "<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta a weight 3\n</virtual-mta-pool>", ""},
		{"virtual-mta-pool", "<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta a weight 0\n</virtual-mta-pool>", "bad weight"},
		{"virtual-mta-pool", "<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta a 3\n</virtual-mta-pool>", "bad weight"},
		{"source-group", "total-max-smtp-in 10\n<source-group g>\nmax-smtp-in 5\nreserved-smtp-in 3\n</source-group>\n" + source("source-group G"), ""},
		{"source-group", source("source-group g"), "there is no <source-group g>"},
		{"source-group", "<source-group g>\nmax-smtp-in 5\nreserved-smtp-in 6\n</source-group>", "more than max-smtp-in"},
		{"source-group", "total-max-smtp-in 5\n<source-group g>\nreserved-smtp-in 6\n</source-group>", "more than total-max-smtp-in"},
		{"source-group", "<source-group g>\nreserved-smtp-in many\n</source-group>", "bad number"},
		{"max-memory-usage-percent", "max-memory-usage-percent 95\nmemory-pool-buffer-size 200m\nspool-max-recipients auto\nspool-max-recipients 1000\nrelay-debug yes", ""},
		{"max-memory-usage-percent", "max-memory-usage-percent 101", "from 1 to 100"},
		{"memory-pool-buffer-size", "memory-pool-buffer-size 2k", "too small"},
		{"spool-max-recipients", "spool-max-recipients 0", "or auto"},
		{"relay-debug", "relay-debug x", "want yes or no"},
		{"await-slot", "smtp-await-slot yes\n" + listener("await-slot no"), ""},
		{"await-slot", listener("await-slot 5"), "want yes or no"},
		{"too-many-rcpts-fails-message", source("too-many-rcpts-fails-message yes\ndisconnect-on-transient-error yes"), ""},
		{"disconnect-on-transient-error", source("disconnect-on-transient-error 421"), "want yes or no"},
		{"process-user", "process-user carom\nprocess-user carom:mail\nrun-as-root no", ""},
		{"process-user", "process-user carom:", "want USER or USER:GROUP"},
		{"process-user", "process-user a b", "unexpected"},
		{"run-as-root", "run-as-root never", "want yes or no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := maps.Clone(testKeys())
			maps.Copy(m, testPairs())
			_, _, err := parse("/etc/carom/config", []byte(tc.conf), m)
			switch {
			case tc.wrong == "" && err != nil:
				t.Errorf("%s: %v", tc.conf, err)
			case tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)):
				t.Errorf("%s: %v, want %q", tc.conf, err, tc.wrong)
			}
		})
	}
}

// The padding that tells a wrong password is right by chance for one of 256: those are told too.
func TestWrongPasswordOfAKey(t *testing.T) {
	locked := []byte(testPairs()["/etc/carom/keys/locked.pem"])
	for i := range 2000 {
		password := "wrong" + strconv.Itoa(i)
		if _, err := keyPair(locked, password); err == nil || !strings.Contains(err.Error(), "the password does not open") {
			t.Fatalf("password %s: %v", password, err)
		}
	}
}

func TestListenersInheritTLS(t *testing.T) {
	c, _, err := parse("/etc/carom/config", []byte(`smtp-server-tls-certificate keys/pair.pem
smtp-server-tls-allow-tlsv1.1 yes
smtp-listener 127.0.0.1:25
<smtp-listener 127.0.0.1:465>
    tls-allow-tlsv1.1 no
    tls-certificate keys/locked.pem secret
</smtp-listener>
`), testPairs())
	if err != nil {
		t.Fatal(err)
	}
	plain, own := c.Listeners[0].TLS, c.Listeners[1].TLS
	if plain.Certificate.Path != "/etc/carom/keys/pair.pem" || !plain.TLSv11 || !plain.TLSv12 || plain.TLSv1 {
		t.Errorf("inherited: %+v", plain)
	}
	if own.Certificate.Path != "/etc/carom/keys/locked.pem" || own.TLSv11 || !own.TLSv13 {
		t.Errorf("own: %+v", own)
	}
}

func TestDecide(t *testing.T) {
	c, _, err := Parse("test.conf", []byte(`
<pattern-list p>
    mail-from /@loud\.test$/ virtual-mta={default},recipient-priority=90
    mail-from /@inner\.test$/ <pattern-list>
        rcpt-to /@a\.test$/ recipient-priority=1
        header Subject /^ urgent/ call-to:q
    </pattern-list>
    rcpt-to /@b\.test$/
    <pattern-list>
        * recipient-priority=3
    </pattern-list>
</pattern-list>
<pattern-list q>
    header X-A /(?-i)^ A$/ recipient-priority=7
</pattern-list>
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		from, to, subject string
		vmta              string
		priority          int
		ok                bool
	}{
		{"x@LOUD.test", "x@b.test", "", "{default}", 90, true},
		{"x@inner.test", "x@a.test", "", "", 1, true},
		{"x@inner.test", "x@c.test", " Urgent!", "", 7, true},
		{"x@inner.test", "x@b.test", "", "", 3, true}, // nothing matched inside
		{"x@other.test", "x@b.test", "", "", 3, true},
		{"x@other.test", "x@c.test", " urgent", "", -1, false},
	} {
		recipients := func(yield func(string) bool) { _ = yield("first@z.test") && yield(tc.to) }
		header := func(name string) []string {
			return map[string][]string{"Subject": {tc.subject}, "X-A": {" a", " A"}}[name]
		}
		got, ok := c.Decide("P", tc.from, recipients, header)
		if want := (IntakeDecision{tc.vmta, tc.priority}); got != want || ok != tc.ok {
			t.Errorf("from %s to %s, subject %q: %v, %t; want %v, %t", tc.from, tc.to, tc.subject, got, ok, want, tc.ok)
		}
	}
}
