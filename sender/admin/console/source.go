package console

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/orders"
)

var sourceCommand = command{
	name:  "source",
	about: "carom source says which local addresses queues may not use.",
	example: `Example:
  carom source disable 192.0.2.1 'gmail.com/*' --for 6h --reason "421 from this address"
  carom source enable 192.0.2.1`,
	verbs: []verb{
		{"disable", "IP [QUEUE] [FLAG…]", "keep queues from using a local address", `QUEUE is a pattern domain/vmta in which * stands for any text; without it no queue uses the address.
The order is in force within a second, and stays over restarts.

Example:
  carom source disable 192.0.2.1 'gmail.com/*' --for 6h --reason "421 from this address"`, disableSource},
		{"enable", "IP [QUEUE] [FLAG…]", "end that", `Ends the orders about the address for the queues that fit, all of them without QUEUE.

Example:
  carom source enable 192.0.2.1 'gmail.com/*'`, enableSource},
		{"list", "[FLAG…]", "the addresses that are disabled", `Example:
  carom source list`, listSources},
	},
}

// SourceCommand is "carom source".
func SourceCommand(ctx context.Context, args []string, stdio service.IO) error {
	return sourceCommand.run(ctx, args, stdio)
}

func disableSource(c *call) func(context.Context, []string) error {
	i := c.instruction("for")
	return func(ctx context.Context, args []string) error {
		what, err := c.source(orders.DisableSource, args)
		if err != nil {
			return err
		}
		return c.give(ctx, i, what, func(w io.Writer, r *admin.Result) error {
			_, err := fmt.Fprintf(w, "Source disabled.\n%s%s\n", orderNumber(r), printable(r.Order.String()))
			return err
		})
	}
}

func enableSource(c *call) func(context.Context, []string) error {
	i := c.instruction("")
	return func(ctx context.Context, args []string) error {
		what, err := c.source(admin.EnableSource, args)
		if err != nil {
			return err
		}
		return c.give(ctx, i, what, func(w io.Writer, r *admin.Result) error {
			_, err := io.WriteString(w, "Source enabled.\n")
			return err
		})
	}
}

func (c *call) source(kind orders.Kind, args []string) (admin.Instruction, error) {
	what := admin.Instruction{Kind: kind, Filter: orders.Filter{Queue: "*/*"}}
	if len(args) < 1 || len(args) > 2 {
		return what, service.Configf("%s: want an address, and a queue or none (quote patterns with *)", c.command)
	}
	ip, err := netip.ParseAddr(args[0])
	if err != nil {
		return what, service.Configf("%s: %q is no IP address", c.command, args[0])
	}
	what.IP = ip.String()
	if len(args) == 2 {
		what.Filter.Queue = orders.QueuePattern(args[1])
	}
	return what, nil
}

func listSources(c *call) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		if len(args) != 0 {
			return service.Configf("%s: unexpected argument %q", c.command, args[0])
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		all, err := client.Orders(ctx)
		if err != nil {
			return err
		}
		disabled := []admin.Order{}
		for _, o := range all {
			if o.Kind == orders.DisableSource {
				disabled = append(disabled, o)
			}
		}
		return c.show(disabled, func(w io.Writer) error { return ordersText(w, disabled) })
	}
}
