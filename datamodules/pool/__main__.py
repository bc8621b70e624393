"""`python -m datamodules.pool stats|validate|merge`: look at response pools, check them and join them."""

from datamodules.pool.commands import main

raise SystemExit(main())
