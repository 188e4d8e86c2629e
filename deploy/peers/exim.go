package peers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"carom/deploy/up/supervise"
)

// eximConfig wants the program, the folder, the port, lines for TLS, and the file of mailboxes.
// What arrives is not changed: no field is added but Received. It delivers as its own user, because
// Exim keeps root's rights only with the configuration of the system.
const eximConfig = `exim_path = %[1]s
spool_directory = %[2]s/spool
log_file_path = %[2]s/log/%%slog
primary_hostname = ` + Host + `
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[3]s
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
deliver_drop_privilege = yes
log_selector = +smtp_protocol_error +pipelining +received_recipients
chunking_advertise_hosts = *
pipelining_advertise_hosts = *
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
acl_smtp_rcpt = rcpt
%[4]s
begin acl
rcpt:
  accept domains = ` + Domain + `
         verify = recipient
  deny message = relay not permitted
begin routers
mailbox:
  driver = accept
  domains = ` + Domain + `
  local_parts = lsearch;%[5]s
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = %[2]s/mail/$local_part_data
  maildir_format
  create_directory
begin retry
`

const eximTLS = `tls_advertise_hosts = *
tls_certificate = %[1]s
tls_privatekey = %[1]s
`

// eximUser is the user that Debian's Exim is built for; it does not start without.
const eximUser = "Debian-exim"

// Exim is Debian's Exim. Its package cannot stand beside Postfix's, so it is looked for in a folder
// of its own first.
type Exim struct {
	Settings
	Unpacked string // where install-exim.sh has put it
}

var _ Server = (*Exim)(nil)

func (e *Exim) program() (string, error) {
	own, err := filepath.Abs(filepath.Join(e.Unpacked, "usr", "sbin", "exim4")) // Exim runs itself from elsewhere
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(own); err == nil {
		return own, nil
	}
	return Find("exim4")
}

// Missing is part of Server.
func (e *Exim) Missing() string {
	if _, err := e.program(); err != nil {
		return "Exim is not there (deploy/peers/install-exim.sh fetches it)"
	}
	if _, err := user.Lookup(eximUser); err != nil {
		return "there is no user " + eximUser + " (deploy/peers/install-exim.sh makes it)"
	}
	if os.Geteuid() != 0 {
		return "Exim delivers only if root starts it"
	}
	return ""
}

// Write is part of Server.
func (e *Exim) Write() error {
	program, err := e.program()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(e.Listen)
	if err != nil {
		return err
	}
	tls := "tls_advertise_hosts =\n"
	if e.Certificate != nil {
		tls = fmt.Sprintf(eximTLS, e.certificate())
	}
	var boxes strings.Builder
	for _, address := range e.addresses() {
		local, _, _ := strings.Cut(address, "@")
		fmt.Fprintf(&boxes, "%s: %s\n", local, e.Mailboxes[address])
	}
	return e.write(map[string]string{"spool": eximUser, "log": eximUser, "mail": eximUser}, map[string]string{
		"exim.conf": fmt.Sprintf(eximConfig, program, e.Dir, port, tls, filepath.Join(e.Dir, "config", "mailboxes")),
		"mailboxes": boxes.String(),
	})
}

// Process is part of Server.
func (e *Exim) Process() supervise.Process {
	program, err := e.program()
	if err != nil {
		program = "exim4" // to be missed when it is started
	}
	return supervise.Process{
		Name: "exim", Path: program, Once: true,
		Args: []string{"-C", filepath.Join(e.Dir, "config", "exim.conf"), "-bdf", "-oP", filepath.Join(e.Dir, "exim.pid")},
	}
}

// Stop is part of Server: the daemon ends by itself.
func (*Exim) Stop(context.Context) error { return nil }

// Log is part of Server.
func (e *Exim) Log() string {
	return read(filepath.Join(e.Dir, "log", "mainlog")) + read(filepath.Join(e.Dir, "log", "paniclog"))
}
