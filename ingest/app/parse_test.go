package app

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/service"
)

const bounceMail = `From: MAILER-DAEMON@mail.example
Subject: failure notice

Hi. This is the qmail-send program at mail.example.
I'm afraid I wasn't able to deliver your message to the following addresses.

<ann@mail.example>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 no such user
Giving up on 192.0.2.7.
`

// runParse runs the command and returns what it printed.
func runParse(t *testing.T, in string, args ...string) (out, complaints string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err = ParseCommand(context.Background(), args, service.IO{In: strings.NewReader(in), Out: &stdout, Err: &stderr})
	return stdout.String(), stderr.String(), err
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestParseCommandReadsItsInput(t *testing.T) {
	for _, args := range [][]string{nil, {"-"}} {
		out, _, err := runParse(t, bounceMail, args...)
		want := "-: dsn (qmail)\n  ann@mail.example  failed  5.1.1  bad-mailbox, hard\n    192.0.2.7 does not like recipient. Remote host said: 550 5.1.1 no such user Giving up on 192.0.2.7.\n"
		if err != nil || out != want {
			t.Errorf("args %q: %q, %v; want %q", args, out, err, want)
		}
	}
}

func TestParseCommandKeepsTheOrderOfFiles(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "box/new/2"), bounceMail)
	writeFile(t, filepath.Join(dir, "box/new/1"), "Subject: Hello\n\nHow are you?\n")
	writeFile(t, filepath.Join(dir, "empty"), "")
	out, _, err := runParse(t, "", "--json", filepath.Join(dir, "empty"), filepath.Join(dir, "box"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out) {
		var r parsed
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, strings.TrimPrefix(r.File, dir)+" "+r.Kind)
		if r.Kind == "dsn" && (len(r.Recipients) != 1 || r.Recipients[0].Recipient != "ann@mail.example" || r.Recipients[0].Hard != "hard") {
			t.Errorf("recipients %+v", r.Recipients)
		}
		if r.Kind == "none" && (r.Recipients == nil || r.Reason == "") {
			t.Errorf("%+v", r)
		}
	}
	if want := "/empty none,/box/new/1 none,/box/new/2 dsn"; strings.Join(got, ",") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseCommandGoesOnBehindAFileThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), bounceMail)
	out, complaints, err := runParse(t, "", filepath.Join(dir, "none"), filepath.Join(dir, "a"))
	if service.ExitStatus(err) != 1 || !strings.Contains(complaints, "none: no such file") || !strings.Contains(out, "ann@mail.example") {
		t.Errorf("status %d, %q, %q", service.ExitStatus(err), complaints, out)
	}
}

func TestParseCommandHelps(t *testing.T) {
	out, _, err := runParse(t, "", "--help")
	if service.ExitStatus(err) != 0 || !strings.Contains(out, "carom ingest parse bounce.eml") {
		t.Errorf("%q, %v", out, err)
	}
	if _, _, err := runParse(t, "", "--colour"); service.ExitStatus(err) != 2 {
		t.Errorf("an unknown flag: %v", err)
	}
}
