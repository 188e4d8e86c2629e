package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/service"
)

const showText = `host-name mail.example.com
total-max-smtp-out 300
<domain *>
max-msg-rate 100/m
</domain>
<domain google.rollup>
max-smtp-out 7
</domain>
<virtual-mta mail1>
smtp-source-host 192.0.2.1 mail1.example.com
max-smtp-out 90
<domain gmail.com>
max-msg-rate 20/h
</domain>
</virtual-mta>
<virtual-mta-pool all>
virtual-mta mail1
max-smtp-msg-rate 5/s
<domain gmail.com>
retry-after 7m
</domain>
</virtual-mta-pool>
`

func showSettings(t *testing.T, text string, args ...string) (string, int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := SettingsCommand(t.Context(), append(args, "-c", file), service.IO{Out: &out, Err: &out})
	if err != nil {
		out.WriteString(err.Error())
	}
	return strings.ReplaceAll(out.String(), filepath.Dir(file), "DIR"), service.ExitStatus(err)
}

func TestSettingsCommand(t *testing.T) {
	for _, tc := range []struct {
		name, queue string
		want        string // with --set
	}{
		{"a queue", "gmail.com/mail1", `# queue gmail.com/mail1
max-msg-rate  20/h  DIR/config:13:1
retry-after   7m    DIR/config:20:1
# virtual-mta mail1
host-name         mail.example.com             DIR/config:1:1
max-smtp-out      90                           DIR/config:11:1
smtp-source-host  192.0.2.1 mail1.example.com  DIR/config:10:1
`},
		{"a queue of {default}", "example.org", `# queue example.org/{default}
max-msg-rate  100/m  DIR/config:4:1
# virtual-mta {default}
host-name  mail.example.com  DIR/config:1:1
`},
		{"a rollup", "google.rollup/mail1", `# queue google.rollup/mail1
max-msg-rate  100/m  DIR/config:4:1
max-smtp-out  7      DIR/config:7:1
# virtual-mta mail1
host-name         mail.example.com             DIR/config:1:1
max-smtp-out      90                           DIR/config:11:1
smtp-source-host  192.0.2.1 mail1.example.com  DIR/config:10:1
`},
		{"a pool", "gmail.com/all", `# queue gmail.com of the pool all
max-msg-rate  100/m  DIR/config:4:1
retry-after   7m     DIR/config:20:1
# virtual-mta-pool all
max-smtp-msg-rate  5/s    DIR/config:18:1
virtual-mta        mail1  DIR/config:17:1
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, status := showSettings(t, showText, tc.queue, "--set"); got != tc.want || status != 0 {
				t.Errorf("show settings %s = %d\n%s\nwant\n%s", tc.queue, status, got, tc.want)
			}
		})
	}
	if got, _ := showSettings(t, showText, "--set"); got != "# global\nhost-name           mail.example.com  DIR/config:1:1\ntotal-max-smtp-out  300               DIR/config:2:1\n" {
		t.Errorf("show settings =\n%s", got)
	}
	out, _ := showSettings(t, showText, "gmail.com/MAIL1", "--json")
	var parts []shown
	if err := json.Unmarshal([]byte(out), &parts); err != nil || len(parts) != 2 || len(parts[0].Settings) < 100 || parts[0].Settings[0].Place != "default" {
		t.Errorf("as JSON: %v, %.300s", err, out)
	}
	for _, bad := range []struct{ queue, want string }{
		{"gmail.com/mail2", `did you mean "mail1"?`},
		{"*", "want DOMAIN or DOMAIN/VMTA"},
		{"/mail1", "want DOMAIN or DOMAIN/VMTA"},
	} {
		if out, status := showSettings(t, showText, bad.queue); status != 2 || !strings.Contains(out, bad.want) {
			t.Errorf("show settings %q = %d\n%s", bad.queue, status, out)
		}
	}
}
