package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/service"
)

// TestSecretsAreNeverPrinted looks for a secret in all that the commands print of files that hold it where
// secrets stand, rightly or not.
func TestSecretsAreNeverPrinted(t *testing.T) {
	const secret = "hunter2"
	good := `host-name mail.example.com
http-api-key hunter2hunter2hunter2hunter2hunter2
smtp-listener 127.0.0.1:25
<smtp-user u>
password hunter2
</smtp-user>
<domain *>
auth-username u
auth-password hunter2
</domain>
<feed /feed>
suppression-key-file key
</feed>
reference-key 1,key
<vault>
access-token hunter2
</vault>
<transmissions-api>
api-key hunter2
</transmissions-api>
`
	for _, tc := range []struct{ name, text string }{
		{"a good file", good},
		{"blanks in secrets", good + "<smtp-user a>\npassword hunter2 hunter2\n</smtp-user>\n<domain a.com>\nauth-password x hunter2\n</domain>\n"},
		{"unclosed quotes", good + "<smtp-user a>\npassword \"hunter2\n</smtp-user>\n<domain a.com>\nauth-password \"hunter2\n</domain>\n"},
		{"passwords of certificates", good + "smtp-server-tls-certificate none.pem hunter2\n<domain a.com>\nsmtp-client-certificate none.pem hunter2\n</domain>\nsmtp-server-tls-certificate none.pem hunter2 more\n"},
		{"an address with a password", good + "<event-stream clickhouse://u:hunter2@db:9000>\n</event-stream>\n<event-stream clickhouse://u:hunter2@db:9000>\n"},
		{"words that are none", good + "passwort hunter2\n<smtp-user b>\npasswd hunter2\n</smtp-user>\n<vault>\naccess-tokn hunter2\n</vault>\n"},
		{"in a wrong place", good + "password hunter2\nauth-password hunter2\naccess-token hunter2\n<source 0/0>\napi-key hunter2\n</source>\n"},
		{"signs in the place of a blank", good + "password=hunter2\n<smtp-user b>\npassword:hunter2\npassword\"hunter2\"\npassword'hunter2'\npassword,hunter2\n</smtp-user>\n"},
		{"behind a tag", good + "<smtp-user b> password hunter2\n</smtp-user> password hunter2\n"},
		{"a tag without an end", good + "<event-stream clickhouse://u:hunter2@db:9000\n<acct-file |curl -u x:hunter2\n"},
		{"the argument of a section", good + "<acct-file \"|curl -u x:hunter2 db\">\nmax-size 1\n</acct-file>\n<acct-file \"|curl -u x:hunter2 db\">\n<domain *>\n</domain>\n</acct-file>\n<acct-file |curl -u x:hunter2>\n"},
		{"a section that is none", good + "<password hunter2>\n</password>\n<domain *>\n<auth-password hunter2>\n</domain>\n"},
		{"a webhook with a login", good + "<acct-file a.csv>\nhttp-webhook-url https://u:hunter2@db/x\nhttp-webhook-url https://u:hunter2@db:x/y z\n</acct-file>\n"},
		{"keys of privacy", good + "<acct-file a.csv>\nprivacy-policy hmac-sha256 hunter2 hunter2\nprivacy-policy siphash hunter2hunter2hunter2\nprivacy-policy hmac-sha256-hexkey hunter2\nprivacy-policy hunter2\nprivacy-policy siphash \"hunter2\n</acct-file>\n"},
		{"an include with a login", good + "include https://u:hunter2@db/x\n"},
		{"a certificate with too much", good + "smtp-server-tls-certificate none.pem hunter2 hunter2\nsmtp-server-tls-certificate \"none.pem\" \"hunter2\n<domain a.com>\nsmtp-client-certificate none.pem hunter2 hunter2\n</domain>\n<smtp-listener 127.0.0.1:465>\ntls-certificate none.pem \"hunter2\n</smtp-listener>\n"},
		{"a certificate with its password", good + "<acct-file a.csv>\nhttp-webhook-certificate none.pem hunter2 hunter2\nhttp-webhook-certificate none.pem hunter2\n</acct-file>\n"},
		{"zero bytes and bad UTF-8", good + "<smtp-user a>\npassword hunter2\xff\n</smtp-user>\n"},
		{"in the place of a name", good + "http-api-key hunter2 hunter2\nreference-key hunter2 hunter2\nreference-key hunter2,hunter2hunter2\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "config")
			for name, text := range map[string]string{file: tc.text, filepath.Join(dir, "key"): secret + "-0123456789-0123456789-0123456789"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			stdio := service.IO{Out: &out, Err: &out}
			for _, err := range []error{
				CheckCommand(t.Context(), []string{file}, stdio), CheckCommand(t.Context(), []string{file, "--json"}, stdio),
				SettingsCommand(t.Context(), []string{"a.com", "-c", file}, stdio), SettingsCommand(t.Context(), []string{"-c", file, "--json"}, stdio),
			} {
				if err != nil {
					out.WriteString(err.Error())
				}
			}
			if out.Len() == 0 || strings.Contains(out.String(), secret) {
				t.Errorf("the secret is in the output:\n%s", &out)
			}
		})
	}
}
