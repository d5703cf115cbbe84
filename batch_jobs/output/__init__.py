"""Writing results: the user's file with our columns, formulas made harmless, the manifest."""
