package config

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"carom/schemas/service"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

// memory is files in memory by their names; those that are not absolute are in the root.
type memory map[string]string

func (m memory) ReadFile(name string) ([]byte, error) {
	for _, key := range []string{name, strings.TrimPrefix(name, "/")} {
		if text, ok := m[key]; ok {
			return []byte(text), nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (m memory) Glob(pattern string) ([]string, error) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, err
		}
		if ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// Resolve knows no links; what is called /etc/carom/link leads to the root.
func (m memory) Resolve(name string) (string, error) {
	name = path.Join("/", name)
	if rest, ok := strings.CutPrefix(name, "/etc/carom/link"); ok {
		return path.Clean("/" + rest), nil
	}
	return name, nil
}

// testKeys returns private keys as PEM by file name.
var testKeys = sync.OnceValue(func() memory {
	keys := memory{}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		panic(err)
	}
	for name, block := range map[string]*pem.Block{
		"rsa.pem":     {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)},
		"ed25519.pem": {Type: "PRIVATE KEY", Bytes: pkcs8},
		"public.pem":  {Type: "PUBLIC KEY", Bytes: []byte("x")},
		"broken.pem":  {Type: "RSA PRIVATE KEY", Bytes: []byte("x")},

		"encrypted8.pem": {Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")},
		"encrypted.pem": {
			Type: "RSA PRIVATE KEY", Bytes: []byte("x"),
			Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"},
		},
	} {
		keys["/etc/carom/keys/"+name] = string(pem.EncodeToMemory(block))
	}
	return keys
})

// TestGolden parses the file "config" of each archive in testdata and compares what its other
// files name: "errors", "warnings", "global", "tree", "settings DOMAIN/VMTA", "source IP [NAME…]". What
// has another name can be included. "go test -update" rewrites the expectations.
func TestGolden(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives in testdata (%v)", err)
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m := maps.Clone(testKeys())
			maps.Copy(m, testPairs())
			for _, f := range archive.Files {
				m["/etc/carom/"+f.Name] = string(f.Data)
			}
			text := strings.ReplaceAll(m["/etc/carom/config"], `\r`, "\r")
			c, warnings, err := parse("/etc/carom/config", []byte(text), m)
			for i, f := range archive.Files {
				got, ok := expectation(t, f.Name, c, warnings, err)
				if !ok {
					continue
				}
				if *update {
					archive.Files[i].Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("%s of %s (-want +got):\n%s", f.Name, file, diff)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func expectation(t *testing.T, name string, c *Config, warnings []Warning, err error) (string, bool) {
	t.Helper()
	kind, argument, _ := strings.Cut(name, " ")
	switch kind {
	case "errors":
		var b strings.Builder
		for _, e := range Errors(err) {
			fmt.Fprintln(&b, e)
		}
		if _, ok := errors.AsType[*service.ConfigError](err); !ok && err != nil {
			t.Errorf("the error is no ConfigError: %v", err)
		}
		return b.String(), true
	case "warnings":
		var b strings.Builder
		for _, w := range warnings {
			fmt.Fprintln(&b, w)
		}
		return b.String(), true
	case "global", "tree", "settings", "source":
	default:
		return "", false
	}
	if c == nil {
		t.Fatalf("unexpected mistakes:\n%v", err)
	}
	switch kind {
	case "tree":
		return tree(c), true
	case "settings":
		domain, vmta, _ := strings.Cut(argument, "/")
		var b strings.Builder
		for _, s := range c.Explain(domain, vmta) {
			if (s.Origin != Pos{}) || argument == "all" {
				fmt.Fprintln(&b, strings.TrimSpace(s.Name+" "+s.Value), "←", strings.TrimPrefix(s.Origin.String(), "/etc/carom/"))
			}
		}
		return b.String(), true
	case "source":
		words := strings.Fields(argument)
		s := c.Source(netip.MustParseAddr(words[0]), words[1:]...)
		return strings.ReplaceAll(strings.Trim(fmt.Sprintf("%+v", s), "{}"), " ", "\n") + "\n", true
	}
	return dump(c), true
}

// dump writes the parts of c outside of domains and sources, as far as they are set.
func dump(c *Config) string {
	var b strings.Builder
	line := func(name string, values ...any) {
		if s := strings.TrimRight(fmt.Sprintln(values...), "\n"); strings.Trim(s, "[] ") != "" {
			fmt.Fprintln(&b, name, s)
		}
	}
	line("host-names", c.HostNames)
	line("postmasters", c.Postmasters)
	for _, l := range c.Listeners {
		address, ok := l.Address()
		line("listener", address, ok, l.Source)
	}
	line("name-servers", c.NameServers)
	line("total-max", c.TotalMaxSMTPOut, c.TotalMaxSMTPIn)
	line("relay-domains", c.RelayDomains)
	line("relay-addresses", c.RelayAddresses)
	line("bounce-domains", c.BounceDomains)
	for _, k := range c.ReferenceKeys {
		line("reference-key", k.ID, k.Key, len(k.Key.Reveal()))
	}
	for _, s := range c.Spools {
		if s.Pos == (Pos{}) {
			continue
		}
		line("spool", s.Dir, s.MinFreeSpace, s.Priority, s.DeliverOnly)
	}
	for _, a := range c.AcctFiles {
		line("acct-file", a.Path, a.Records, a.RecordFields, a.MaxSize, a.MoveTo, FormatDuration(a.MoveInterval), FormatDuration(a.DeleteAfter), a.UserString, a.ISOTimes)
	}
	for _, a := range c.AcctFiles {
		if a.Command != nil || a.HeaderFields != nil || a.QueueFilter != nil || a.Privacy.Way != "" || a.Webhook.URL != nil || a.WorldReadable || a.Sync || a.CountMoved {
			line("acct-file", a.Path, "more", fmt.Sprintf("%q", a.Command), a.HeaderFields, a.QueueFilter, a.Privacy, len(a.Privacy.Key.Reveal()), a.WorldReadable, a.Sync, a.CountMoved,
				FormatDuration(a.RetryInterval), FormatDuration(a.WriteTimeout))
		}
		if w := a.Webhook; w.URL != nil {
			line("webhook", w.URL, w.Headers, len(w.Headers), w.Certificate, w.CAFile, FormatDuration(w.MaxInterval), w.Gzip, FormatDuration(w.ConnectTimeout), FormatDuration(w.IOTimeout), w.Verbose)
		}
	}
	for _, a := range c.RejectLogs {
		line("rejectlog-file", a.Path, a.Records, a.RecordFields, a.MaxSize, a.MoveTo, FormatDuration(a.DeleteAfter))
	}
	line("bounce-categories", c.BounceCategories)
	if e := c.EventLog; e.Pos != (Pos{}) { // else by default, as in places_test.go
		line("event-log", e.Dir, e.SegmentSize, e.MaxSize)
		if e.Privacy.Way != "" {
			line("event-log privacy", e.Privacy, e.Privacy.Key.Reveal())
		}
	}
	if f := c.Feed; f.Pos != (Pos{}) {
		line("feed", f.Dir, f.PollInterval, f.SuppressionKey, f.SuppressionKey.Reveal())
	}
	if s := c.EventStream; s.Pos != (Pos{}) {
		line("event-stream", s.URL, s.User, s.Password, s.Database, s.BatchSize, s.BatchInterval)
	}
	if a := c.Admin; a.Pos != (Pos{}) {
		line("admin", a.Path)
	}
	if p := c.BounceProcessor; p != nil {
		line("bounce-processor", len(p.AddressLists), p.DeliverMatched, p.DeliverUnmatched)
	}
	if p := c.FeedbackLoopProcessor; p != nil {
		line("feedback-loop-processor", len(p.AddressLists), p.DeliverMatched, p.DeliverUnmatched)
	}
	for _, m := range c.VMTAs() {
		line("vmta", m.Name, m.SourceHosts, m.HostName, m.DomainKeys, m.MaxSMTPOut, m.MaxSMTPMsgRate, m.SourcePublicIP, show(m.WarmupStart), show(m.EstablishedSince), m.Pools)
	}
	for _, name := range slices.Sorted(maps.Keys(c.keyLists)) {
		keys, _ := c.DomainKeyList(strings.ToUpper(name))
		line("domain-key-list", name, keys)
	}
	for _, p := range c.Pools() {
		line("pool", p.Name, p.Members)
	}
	return b.String()
}
