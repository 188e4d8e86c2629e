package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestIncludesStayInTheFolder includes files on disk, through links too.
func TestIncludesStayInTheFolder(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inside, outside := filepath.Join(root, "pmta"), filepath.Join(root, "other")
	for _, dir := range []string{inside, filepath.Join(inside, "conf.d"), outside, filepath.Join(root, "pmta2")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"pmta/a.conf": "total-max-smtp-out 7\n", "pmta/conf.d/b.conf": "total-max-smtp-out 8\n",
		"other/secret": "password hunter2\n", "other/good.conf": "total-max-smtp-out 9\n", "pmta2/c.conf": "total-max-smtp-out 10\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"pmta/in.conf": "conf.d/b.conf", "pmta/out.conf": "../other/good.conf", "pmta/out.d": "../other", "entry": "pmta",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(inside, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, text string
		want       int    // total-max-smtp-out
		mistake    string // part of it
	}{
		{"relative", "include a.conf", 7, ""},
		{"absolute and inside", "include " + inside + "/a.conf", 7, ""},
		{"in a folder below", "include conf.d/*.conf", 8, ""},
		{"a link that stays inside", "include in.conf", 8, ""},
		{"outside by the name of the folder with a letter more", "include ../pmta2/c.conf", 0, "is outside " + inside},
		{"outside by dots", "include ../other/good.conf", 0, "write in front of it: include-from " + outside},
		{"outside by dots in the middle", "include conf.d/../../other/good.conf", 0, "is outside"},
		{"outside and absolute", "include " + outside + "/good.conf", 0, "is outside"},
		{"a link to the outside", "include out.conf", 0, "leads to " + outside + "/good.conf and is outside"},
		{"a link to the outside by wildcards", "include ou?.conf", 0, "leads to " + outside + "/good.conf and is outside"},
		{"a folder that is a link", "include out.d/good.conf", 0, "is outside"},
		{"wildcards in a folder that is a link", "include out.d/*", 0, "is outside"},
		{"wildcards outside", "include ../*/good.conf", 0, "is outside"},
		{"what is outside is not shown", "include ../other/secret", 0, "is outside"},
		{"outside with leave", "include-from ../other\ninclude ../other/good.conf", 9, ""},
		{"a link with leave", "include-from " + outside + "\ninclude out.conf", 9, ""},
		{"everywhere with leave", "include-from /\ninclude ../other/good.conf", 9, ""},
		{"leave that comes too late", "include ../other/good.conf\ninclude-from ../other", 0, "is outside"},
		{"leave for no folder", "include-from nowhere", 0, "include-from: nowhere: no such file"},
		{"leave without a folder", "include-from", 0, "include-from: value missing; want a path"},
		{"a folder", "include conf.d", 0, "is a folder"},
		{"a pipe", "include pipe", 0, "is no plain file"},
		{"a device", "include-from /dev\ninclude /dev/zero", 0, "is no plain file"},
		{"a key that is a device", "domain-key s,*,/dev/zero", 0, "is no plain file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(root, "entry", "config") // its folder is a link itself
			if err := os.WriteFile(file, []byte(tc.text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := Load(file)
			switch {
			case tc.mistake == "" && err != nil:
				t.Fatal(err)
			case tc.mistake == "":
				if c.TotalMaxSMTPOut != tc.want {
					t.Errorf("total-max-smtp-out = %d; want %d", c.TotalMaxSMTPOut, tc.want)
				}
			case err == nil || !strings.Contains(err.Error(), tc.mistake) || strings.Contains(err.Error(), "hunter2"):
				t.Errorf("got %v; want %q in it", err, tc.mistake)
			}
		})
	}
}

// TestIncludeInEveryScope includes wildcards wherever a directive or a section may stand.
func TestIncludeInEveryScope(t *testing.T) {
	m := memory{
		"/etc/carom/domain.d/1": "max-smtp-out 3\n", "/etc/carom/domain.d/2": "max-smtp-out 4\n",
		"/etc/carom/vmta.d/1": "smtp-source-host 192.0.2.1 m.example\n", "/etc/carom/vmta.d/2": "<domain a.com>\nmax-smtp-out 5\n</domain>\n",
		"/etc/carom/source.d/1": "smtp-service no\n", "/etc/carom/pattern.d/1": "reply /x/ mode=backoff\n",
		"/etc/carom/pool.d/1": "virtual-mta v\n", "/etc/carom/acct.d/1": "records d\n", "/etc/carom/categories": "/y/ bad-mailbox\n",
	}
	c, _, err := parse("/etc/carom/config", []byte(`<domain *>
include domain.d/*
</domain>
<virtual-mta v>
include vmta.d/*
</virtual-mta>
<virtual-mta-pool p>
include pool.d/*
</virtual-mta-pool>
<source 0/0>
include source.d/*
</source>
<smtp-pattern-list l>
include pattern.d/*
</smtp-pattern-list>
<acct-file a.csv>
include acct.d/*
</acct-file>
<bounce-category-patterns>
include categor*
</bounce-category-patterns>
`), m)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := c.VMTA("v")
	if got := []any{
		c.Domain("b.com", "").MaxSMTPOut, c.Domain("a.com", "v").MaxSMTPOut, len(v.SourceHosts), v.Pools[0],
		c.Source(v.SourceHosts[0].Prefix.Addr()).SMTPService, len(c.AcctFiles[0].Records), len(c.BounceCategories),
	}; got[0] != 4 || got[1] != 5 || got[2] != 1 || got[3] != "p" || got[4] != false || got[5] != 1 || got[6] != 1 {
		t.Errorf("the included directives made %v", got)
	}
}
