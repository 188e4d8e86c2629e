//go:build unix

package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `carom clickhouse runs ClickHouse in one process on a data folder and speaks its HTTP interface.

It is the warehouse of a single machine; in production carom talks to a ClickHouse server instead.
Without --user, clients of this machine are the user default and need no password; others are
refused. A read-only user can send one SELECT, SHOW, DESCRIBE or EXPLAIN at a time and reaches
neither files nor the network. With --tenant acme=FILE there is a read-only user carom_tenant_acme who
sees the events, jobs and roll-ups of the tenant acme and nothing else.

The engine library is looked for at --engine-lib, $CAROM_ENGINE_LIB, beside the executable, in
./build/engine and in /usr/lib/carom. "make engine" fetches it.

Example:
  carom clickhouse --path ./warehouse --listen 127.0.0.1:8123
  curl http://127.0.0.1:8123 -d 'SELECT version()'`

// Command is the subcommand "clickhouse": it runs the engine until ctx ends.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("clickhouse", about, stdio)
	var (
		o                              Options
		listen, portFile, level        string
		passwordFile, readonlyPassFile string
		asJSON                         bool
	)
	flags.StringVar(&o.Path, "path", "", "data `folder` (required)")
	flags.StringVar(&listen, "listen", "127.0.0.1:8123", "`address` of the HTTP interface; port 0 takes a free one")
	flags.StringVar(&portFile, "port-file", "", "write the address listened on to this `file`")
	flags.StringVar(&o.User, "user", "", "`name` of the user")
	flags.StringVar(&passwordFile, "password-file", "", "`file` with the user's password")
	flags.StringVar(&o.ReadonlyUser, "readonly-user", "", "`name` of the read-only user")
	flags.StringVar(&readonlyPassFile, "readonly-password-file", "", "`file` with the read-only user's password")
	o.Tenants = map[string]string{}
	flags.Func("tenant", "`TENANT=FILE`: make the user carom_tenant_TENANT with the password in the file; may be given again", func(s string) error {
		return addTenant(o.Tenants, s)
	})
	flags.StringVar(&o.Library, "engine-lib", "", "the engine library, a `file`")
	flags.IntVar(&o.Connections, "connections", 8, "`number` of connections to the engine: one each for inserts, changes and control, the rest for reads")
	flags.IntVar(&o.MaxQueued, "max-queued", 200, "`number` of statements that may wait for each of these but control")
	flags.DurationVar(&o.StopTimeout, "stop-timeout", 10*time.Second, "how long running statements may take on SIGTERM, a `duration`")
	flags.StringVar(&level, "log-level", "info", "`level` of the log: debug, info, warn or error")
	flags.BoolVar(&asJSON, "log-json", false, "log JSON lines")
	clock.Flag(flags.FlagSet)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if o.Path == "" {
		return service.Configf("carom clickhouse: --path is missing (see carom clickhouse --help)")
	}
	var err error
	if o.Password, err = passwordOf("user", o.User, "password-file", passwordFile); err != nil {
		return err
	}
	if o.ReadonlyPassword, err = passwordOf("readonly-user", o.ReadonlyUser, "readonly-password-file", readonlyPassFile); err != nil {
		return err
	}
	if o.User != "" && o.User == o.ReadonlyUser {
		return service.Configf("--user and --readonly-user are both %q", o.User)
	}
	for tenant := range o.Tenants {
		if name := warehouse.TenantUser(tenant); name == o.User || name == o.ReadonlyUser {
			return service.Configf("--tenant %s makes the user %s, and another flag does too", tenant, name)
		}
	}
	log, err := service.Logger(stdio.Err, level, asJSON)
	if err != nil {
		return err
	}
	o.Log = log.With("component", "clickhouse")
	if o.Library, err = FindLibrary(o.Library); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return service.Configf("--listen %s: the port is in use by another process", listen)
	}
	if err != nil {
		return service.Configf("--listen: %w", err)
	}
	server, err := Open(o)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer server.Close()
	address := listener.Addr().String()
	if portFile != "" {
		if err := writeWhole(portFile, address+"\n"); err != nil {
			return errors.Join(fmt.Errorf("--port-file: %w", err), listener.Close())
		}
	}
	o.Log.Info("listening", "address", address, "version", server.Version(), "path", o.Path)
	if err := server.Serve(ctx, listener); err != nil {
		return err
	}
	o.Log.Info("stopped")
	return nil
}

// passwordOf reads the password of a user from the first line of its file.
func passwordOf(userFlag, name, fileFlag, file string) (string, error) {
	switch {
	case name == "" && file == "":
		return "", nil
	case name == "":
		return "", service.Configf("--%s is of no use without --%s", fileFlag, userFlag)
	case file == "":
		return "", service.Configf("--%s needs --%s", userFlag, fileFlag)
	}
	return readPassword(fileFlag, file)
}

// addTenant takes one --tenant.
func addTenant(passwords map[string]string, arg string) (err error) {
	tenant, file, ok := strings.Cut(arg, "=")
	if !ok || file == "" {
		return errors.New("want TENANT=FILE")
	}
	if err := warehouse.CheckTenant(tenant); err != nil {
		return err
	}
	passwords[tenant], err = readPassword("tenant", file)
	return err
}

// readPassword reads a password from the first line of the file that a flag names.
func readPassword(flag, file string) (string, error) {
	password, err := warehouse.FirstLine(file)
	if err != nil {
		return "", service.Configf("--%s: %w", flag, err)
	}
	if password == "" {
		return "", service.Configf("--%s %s: the first line is empty", flag, file)
	}
	return password, nil
}

// writeWhole writes a file so that whoever waits for it never sees a part.
func writeWhole(file, text string) error {
	temp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".tmp-")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
