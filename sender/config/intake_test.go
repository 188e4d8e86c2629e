package config

import (
	"maps"
	"strings"
	"testing"
)

// TestIntakeDirectives checks values of the directives by which mail comes in: what is accepted
// and what is said of what is not.
func TestIntakeDirectives(t *testing.T) {
	source := func(s string) string { return "<source 0/0>\n" + s + "\n</source>\n" }
	user := func(s string) string { return "<smtp-user ann>\n" + s + "\n</smtp-user>\n" }
	listener := func(s string) string { return "<smtp-listener 127.0.0.1:25>\n" + s + "\n</smtp-listener>\n" }
	for _, tc := range []struct{ name, conf, wrong string }{
		{"allow-chunking", source("allow-chunking no\nallow-smtputf8 no\nfix-bare-newline yes"), ""},
		{"allow-chunking", source("allow-chunking never"), "want yes or no"},
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
		{"tls-certificate", listener("tls-certificate keys/locked.pem wrong"), "cannot be decrypted"},
		{"tls-certificate", listener("tls-certificate keys/cert.pem"), "no certificate with its private key"},
		{"tls-certificate", listener("tls-certificate keys/none.pem"), "no such file"},
		{"immediate-tls", listener("immediate-tls yes"), "needs a tls-certificate"},
		{"immediate-tls", "smtp-server-tls-certificate keys/pair.pem\n" + listener("immediate-tls yes"), ""},
		{"tls-allow", listener("tls-certificate keys/pair.pem\ntls-allow-tlsv1.2 no\ntls-allow-tlsv1.3 no"), "no version of TLS"},
		{"tls-ciphers", listener("tls-ciphers HIGH:!ADH:@STRENGTH"), ""},
		{"tls-ciphers", listener("tls-ciphers ECDHE-RSA-CHACHA20-POLY1305:AES128-SHA:DES-CBC3-SHA"), ""},
		{"tls-ciphers", listener("tls-ciphers DHE-RSA-CAMELLIA256-SHA"), "none is known"},
		{"smtp-server-tls", "smtp-server-tls-ciphers AES256-GCM-SHA384\nsmtp-server-tls-ca-file keys/cert.pem\nsmtp-server-tls-allow-tlsv1 yes", ""},
		{"smtp-server-tls", "smtp-server-tls-ca-file keys/rsa.pem", "no PEM certificate"},
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
	for name, want := range map[string]bool{"ECDHE-RSA-AES128-GCM-SHA256": true, "TLS_RSA_WITH_AES_128_CBC_SHA": true, "ECDHE-ECDSA-AES256-SHA": true, "TLS_AES_128_GCM_SHA256": false, "RC4-MD5": false} {
		if _, got := cipherByName(name); got != want {
			t.Errorf("cipherByName(%s): %t", name, got)
		}
	}
}
