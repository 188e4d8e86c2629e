package console

import (
	"context"
	"fmt"
	"io"
	"strings"

	"carom/schemas/service"
)

const reloadAbout = `
carom reload [-c FILE]

Lets the running node read its configuration again and put it in force, as SIGHUP does. A file with
mistakes changes nothing: they are printed, and the exit status is 2. What the node can change only when it
is started again is named. Mail in the queues keeps its times; connections that the new configuration
would open in the same way go on.

Example:
  carom check config /etc/carom/config && carom reload -c /etc/carom/config
`

// ReloadCommand is "carom reload".
func ReloadCommand(ctx context.Context, args []string, stdio service.IO) error {
	c := &call{command: "carom reload", out: stdio.Out, Flags: service.NewFlags("reload", reloadAbout, stdio)}
	c.place(c.Flags)
	if err := c.Parse(args); err != nil {
		return err
	}
	if err := c.NoArgs(); err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	r, err := client.Reload(ctx)
	if err != nil {
		return c.explain(err)
	}
	return c.show(r, func(w io.Writer) error {
		var b strings.Builder
		for _, warning := range r.Warnings {
			fmt.Fprintln(&b, "warning: "+printable(warning))
		}
		b.WriteString("Configuration reloaded.\n") // as PowerMTA says it
		if !r.Changed {
			b.WriteString("It is the same as before.\n")
		}
		if len(r.Restart) > 0 {
			fmt.Fprintf(&b, "Not before the node is started again: %s\n", strings.Join(r.Restart, ", "))
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}
