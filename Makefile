# kessel_router: build with PGXS. `make help` lists what one can ask for.

EXTENSION    = kessel_router
EXTVERSION   = 0.1
MODULE_big   = kessel_router
PG_CONFIG   ?= pg_config

SRCS         = $(sort $(wildcard src/*.c src/*/*.c))
OBJS         = $(SRCS:.c=.o)
KR_HEADERS   = $(sort $(wildcard src/*.h src/*/*.h))
SQL_MODULES  = $(sort $(wildcard sql/modules/*.sql))
DATA_built   = sql/$(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN  = $(DATA_built) tmp_check results regression.diffs regression.out

PG_CPPFLAGS  = -I$(srcdir)/src $(addprefix -I$(srcdir)/,$(sort $(dir $(KR_HEADERS)))) -I$(shell $(PG_CONFIG) --includedir)
PG_CFLAGS    = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare $(WERROR)
SHLIB_LINK   = -lpq -lsodium

.DEFAULT_GOAL := all

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# Packaged servers are built without --enable-depend: any header rebuilds all.
$(OBJS): $(KR_HEADERS)

$(DATA_built): $(SQL_MODULES) Makefile
	cat $(SQL_MODULES) > $@.tmp && mv $@.tmp $@
