package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"carom/deploy/up/supervise"
)

// postfixMain is main.cf: Debian's own, cut down, and with a log file in place of syslog, because
// not every machine has a syslogd. It wants the folder and further lines.
const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
myhostname = ` + Host + `
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
local_recipient_maps =
alias_maps =
biff = no
%[2]s`

// postfixMailboxes delivers to Maildirs. It wants the addresses with their folders, and where these are.
const postfixMailboxes = `virtual_mailbox_domains = ` + Domain + `
virtual_mailbox_maps = inline:{ %s }
virtual_mailbox_base = %s
virtual_minimum_uid = 1
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_relay_restrictions = reject_unauth_destination
smtputf8_enable = yes
`

// postfixTLS wants the file with key and certificate.
const postfixTLS = `smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
smtpd_tls_cert_file = %[1]s
smtpd_tls_key_file = %[1]s
smtpd_tls_session_cache_database =
`

// postfixMaster is master.cf: Debian's own without what nobody here uses and without chroot, for which
// Debian's start script copies files into the queue folder. It wants the listener.
const postfixMaster = `%s inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// Postfix is Debian's Postfix.
type Postfix struct {
	Settings
	More string // further lines of main.cf
}

var _ Server = (*Postfix)(nil)

// Missing is part of Server.
func (*Postfix) Missing() string {
	if _, err := Find("postfix"); err != nil {
		return "Postfix is not installed (Debian's package postfix)"
	}
	if _, err := user.Lookup("postfix"); err != nil {
		return "there is no user postfix"
	}
	if os.Geteuid() != 0 {
		return "Postfix starts as root only"
	}
	return ""
}

// Write is part of Server.
func (p *Postfix) Write() error {
	lines := p.More
	if p.Mailboxes != nil {
		boxes := make([]string, 0, len(p.Mailboxes))
		for _, address := range p.addresses() {
			boxes = append(boxes, fmt.Sprintf("{%s = %s/}", address, p.Mailboxes[address]))
		}
		lines += fmt.Sprintf(postfixMailboxes, strings.Join(boxes, ", "), p.mail())
	}
	if p.Certificate != nil {
		lines += fmt.Sprintf(postfixTLS, p.certificate())
	}
	return p.write(map[string]string{"queue": "root", "data": "postfix", "mail": "nobody"}, map[string]string{
		"main.cf":   fmt.Sprintf(postfixMain, p.Dir, lines),
		"master.cf": fmt.Sprintf(postfixMaster, p.Listen),
	})
}

// Process is part of Server.
func (p *Postfix) Process() supervise.Process {
	return supervise.Process{Name: "postfix", Path: "/usr/sbin/postfix", Once: true, Args: []string{"-c", p.config(), "start-fg"}}
}

// Stop is part of Server: start-fg leaves a shell with the master as its child, which has a process
// group of its own; only `postfix stop` ends them all.
func (p *Postfix) Stop(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "/usr/sbin/postfix", "-c", p.config(), "stop").CombinedOutput() //nolint:gosec // a fixed name
	if err != nil {
		return fmt.Errorf("stop postfix: %w: %s", err, out)
	}
	return nil
}

// Log is part of Server.
func (p *Postfix) Log() string { return read(filepath.Join(p.Dir, "maillog")) }

func (p *Postfix) config() string { return filepath.Join(p.Dir, "config") }

// read returns the content of a log, or why there is none.
func read(name string) string {
	text, err := os.ReadFile(name) //nolint:gosec // in a server's own folder
	if err != nil {
		return err.Error()
	}
	return string(text)
}
