/* What options.c and its table share; private to this folder. */
#ifndef MPQ_CLI_OPTION_TABLE_H
#define MPQ_CLI_OPTION_TABLE_H

#include "cli/options.h"

/* Beside the bits of commands: a checkpoint keeps what was given. */
#define MPQ_OPTION_KEPT 0x10000

struct mpq_option_row {
    const char *name;
    char letter;       /* of the short form, or 0                                     */
    unsigned commands; /* OR of enum mpq_command_bit, and MPQ_OPTION_KEPT; a name may have a row a
                          command */
    const char *argument; /* as help shows it, for a choice the words; NULL: a switch    */
    bool (*parse)(const struct mpq_option_row *row, const char *text, void *field);
    const char *expects; /* "...", completes "--name: 'text' is not ..."                */
    size_t offset;       /* of the field in struct mpq_options                          */
    const char *initial; /* default, parsed like any value; NULL: the field's own       */
    const char *note;    /* default in words, where there is nothing to parse           */
    const char *help;
};

#define MPQ_DEFAULT_SIZE "20%"

/* [mpq_option_count()] */
extern const struct mpq_option_row mpq_option_table[];

/* One parser a kind of argument, into the field that the row names: false where the text is not
 * one. */
#define MPQ_OPTION_PARSER(name)                                                                    \
    bool mpq_parse_##name(const struct mpq_option_row *row, const char *text, void *field)
MPQ_OPTION_PARSER(text);
MPQ_OPTION_PARSER(switch);
MPQ_OPTION_PARSER(choice);
MPQ_OPTION_PARSER(target);
MPQ_OPTION_PARSER(unsigned);
MPQ_OPTION_PARSER(count);
MPQ_OPTION_PARSER(positive);
MPQ_OPTION_PARSER(threads);
MPQ_OPTION_PARSER(scale);
MPQ_OPTION_PARSER(channels);
MPQ_OPTION_PARSER(std);
MPQ_OPTION_PARSER(bits);
MPQ_OPTION_PARSER(size);
MPQ_OPTION_PARSER(sizes);
MPQ_OPTION_PARSER(share);
MPQ_OPTION_PARSER(memory);
MPQ_OPTION_PARSER(pareto);
MPQ_OPTION_PARSER(avg_bits);
MPQ_OPTION_PARSER(points);
MPQ_OPTION_PARSER(bitops);
MPQ_OPTION_PARSER(time);
#undef MPQ_OPTION_PARSER

#endif
